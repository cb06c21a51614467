"""The plumbing pipeline with its training stages on simulated EC2, rl@stage2 taken away twice: the weights of a local run."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flows.params import profile_params, write_params
from tests.infra.sim.permission import need_namespaces
from tests.integration.ec2_pipeline import STOLEN, TRAINED, Thief, outputs, pipeline_on_ec2
from tests.integration.tree import copy_project, longfuse, reproduce

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 120  # of that stage, so that there is time to take it away twice


def project(folder: Path) -> Path:
    tree = copy_project(folder / "longfuse")
    params = profile_params("plumbing")
    params["rl"]["stage2"]["steps"] = STEPS
    # Steps of a fifth of a second replace checkpoints faster than they can be copied: one in ten is kept.
    params["rl"]["shared"]["checkpoint_every_steps"] = 10
    write_params(tree / "params.yaml", params)
    return tree


def test_the_pipeline_taken_away_twice_ends_with_the_weights_of_the_local_run(tmp_path, monkeypatch):
    need_namespaces()
    here = project(tmp_path / "here")
    reproduce(here, "rl@stage4")  # all training, without the evaluations

    there = project(tmp_path / "there")
    log = tmp_path / "there.log"

    def export(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    with pipeline_on_ec2(there, log, export) as (cloud, process):
        thief = Thief(cloud, lambda: process.poll() is None)
        taken = thief.steal("kill", "notice")
        ended = thief.end_of(thief.run_of(STOLEN))
        assert [line.split()[-1] for line in ended["history"]] == ["lost", "interrupted", "succeeded"]
        assert process.wait(2400) == 0, log.read_text()[-4000:]

    assert len(set(taken)) == 2
    assert outputs(there) == outputs(here)
    before, after = (
        load_file(there / f"outputs/rl/{name}/data/model/model.safetensors") for name in ("stage1", STOLEN[3:])
    )
    assert any((before[name] != after[name]).any() for name in before), "an update that moves nothing proves nothing"
    journal = [
        line for line in (there / ".state/simulated/journal.jsonl").read_text().splitlines() if "RunInstances" in line
    ]
    assert len(journal) >= len(TRAINED) + 2
    status = longfuse(there, "plan")
    assert "nothing to do" in status.stdout.lower(), status.stdout
