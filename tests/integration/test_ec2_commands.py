"""`longfuse jobs --simulate ...`, the real command in a process of its own, on a run of the simulated cloud of a project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.sim.cloud import READY
from tests.infra.ec2.desk import Desk

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 240.0


@pytest.fixture
def root(simulated, monkeypatch, tmp_path):
    """A project whose simulated cloud is up, as `longfuse run --on ec2 --simulate` leaves it while it works."""
    simulated.clear()
    for name, value in simulated.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    folder = tmp_path / ".state" / "simulated"
    folder.mkdir(parents=True)
    (folder / READY).write_text((simulated.folder / READY).read_text())
    return tmp_path


def longfuse(root, *words):
    """Of the user's shell nothing names a cloud."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LONGFUSE_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "jobs", "--simulate", *words],
        cwd=root, env={**quiet, "PYTHONPATH": str(Path.cwd())}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def told(root, *words):
    process = longfuse(root, *words)
    text = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, text
    return text


def test_the_commands_see_a_run_adopt_it_and_end_it(root, simulated):
    desk = Desk(simulated, 4, 0.05, gate=2)
    first = desk.make()
    first.take()
    while not first.state.beat_seq:
        first.look_and_act()
    first.give_up()
    row = next(line for line in told(root, "list").splitlines() if line.startswith(desk.run_id))
    assert row.split()[1:3] == ["toy", "watching"]
    shown = told(root, "show", desk.run_id)
    assert desk.instances()[0] in shown
    assert "reserved" in shown

    adopted, followed = longfuse(root, "adopt", desk.run_id), longfuse(root, "logs", "-f", desk.run_id)
    for process in (adopted, followed):
        assert any(line == "step 2\n" for line in iter(process.stdout.readline, ""))
    assert "is controlled by" in told(root, "cancel", desk.run_id)  # the adopter, which ends it
    assert "stopped at 2" in followed.communicate(timeout=PATIENCE_SECONDS)[0]
    assert f"run {desk.run_id}: cancelled" in adopted.communicate(timeout=PATIENCE_SECONDS)[0]
    assert desk.alive() == []
    assert "nothing to reap" in told(root, "reap", "--dry-run")
    assert any(line.startswith(desk.run_id) and "cancelled" in line for line in told(root, "cost").splitlines())


def test_without_a_simulated_cloud_the_command_says_how_to_start_one(tmp_path):
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    process = longfuse(tmp_path, "list")
    text = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 3
    assert "longfuse run --on ec2 --simulate" in text
