"""The runner with real DVC and real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from infra.errors import StageFailedError, StageStoppedError, TransientError
from infra.jobs import JobResult, JobSpec, Outcome
from infra.local import Ladder, LocalRunner, clear_dead_locks
from infra.settings import child_environment, load_settings
from tests.diamond_project import make_project, set_params, value_of


def spec(root: Path, stage: str) -> JobSpec:
    environment = child_environment(load_settings(root, {}), stage=stage)
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return JobSpec(stage=stage, root=root, environment=environment)


def do(root: Path, stage: str, runner: LocalRunner | None = None) -> tuple[JobResult, list[str]]:
    runner = runner or LocalRunner()
    lines: list[str] = []
    return runner.wait(runner.submit(spec(root, stage)), lines.append), lines


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)


def stage_pid(root: Path, stage: str) -> int:
    path = root / ".state" / f"{stage}.pid"
    wait_for(lambda: path.is_file() and path.read_text().strip())
    return int(path.read_text())


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_ran_then_skipped_then_restored_are_told_apart(tmp_path):
    root = make_project(tmp_path / "p")
    result, lines = do(root, "a")
    assert result.outcome is Outcome.RAN
    assert "hello from a" in lines
    assert do(root, "a")[0].outcome is Outcome.SKIPPED
    set_params(root, a={"x": 2})
    assert do(root, "a")[0].outcome is Outcome.RAN
    set_params(root, a={"x": 1})
    result, lines = do(root, "a")
    assert result.outcome is Outcome.RESTORED
    assert "hello from a" not in lines
    assert value_of(root, "a") == [1]


def test_failing_stage_raises_with_the_tail_of_its_output(tmp_path):
    root = make_project(tmp_path / "p", a={"fail": True})
    with pytest.raises(StageFailedError) as caught:
        do(root, "a")
    assert caught.value.stage == "a"
    assert any("a is broken: mend it" in line for line in caught.value.tail)


def test_missing_input_is_a_failure_that_names_it(tmp_path):
    root = make_project(tmp_path / "p")
    with pytest.raises(StageFailedError) as caught:
        do(root, "b")
    assert any("outputs/a/data" in line for line in caught.value.tail)


def test_same_stage_twice_at_once_is_worth_another_attempt(tmp_path):
    root = make_project(tmp_path / "p", a={"seconds": 3.0})
    runner = LocalRunner()
    first = runner.submit(spec(root, "a"))
    stage_pid(root, "a")
    with pytest.raises(TransientError, match="busy"):
        do(root, "a", runner)
    assert runner.wait(first, lambda _: None).outcome is Outcome.RAN


def test_stubborn_stage_is_killed_by_the_last_step_of_the_ladder(tmp_path):
    root = make_project(tmp_path / "p", a={"seconds": 60.0, "stubborn": True})
    runner = LocalRunner(Ladder(interrupt_seconds=0.3, terminate_seconds=0.3))
    job = runner.submit(spec(root, "a"))
    pid = stage_pid(root, "a")
    started = time.monotonic()
    canceller = threading.Thread(target=runner.cancel, args=(job,))
    canceller.start()
    with pytest.raises(StageStoppedError):
        runner.wait(job, lambda _: None)
    canceller.join()
    assert gone(pid)
    assert 0.5 < time.monotonic() - started < 20


def test_interrupt_is_enough_for_a_stage_that_heeds_it(tmp_path):
    root = make_project(tmp_path / "p", a={"seconds": 60.0})
    runner = LocalRunner(Ladder(interrupt_seconds=20.0))
    job = runner.submit(spec(root, "a"))
    pid = stage_pid(root, "a")
    started = time.monotonic()
    runner.cancel_all()
    with pytest.raises(StageStoppedError):
        runner.wait(job, lambda _: None)
    assert gone(pid)
    assert time.monotonic() - started < 18
    with pytest.raises(StageStoppedError):
        runner.submit(spec(root, "b"))


def test_error_while_a_line_is_shown_stops_the_stage_and_is_raised(tmp_path):
    root = make_project(tmp_path / "p", a={"seconds": 60.0})
    runner = LocalRunner()
    job = runner.submit(spec(root, "a"))

    def interrupted(line: str) -> None:
        if line.startswith("hello"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.wait(job, interrupted)
    assert gone(stage_pid(root, "a"))


OWNER = """
import sys
sys.path.insert(0, {repo!r})
from tests.infra.test_local_runner import *
runner = LocalRunner()
runner.wait(runner.submit(spec(Path({root!r}), "a")), lambda line: None)
"""


@pytest.mark.parametrize(
    "victim", ["owner", pytest.param("supervisor", marks=pytest.mark.slow), pytest.param("dvc", marks=pytest.mark.slow)]
)
def test_sigkill_leaves_no_process(tmp_path, victim):
    root = make_project(tmp_path / "p", a={"seconds": 60.0, "stubborn": True})
    code = OWNER.format(repo=str(Path(__file__).parents[2]), root=str(root))
    owner = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        stage_pid(root, "a")
        tree = psutil.Process(owner.pid).children(recursive=True)
        supervisor = next(p for p in tree if any("supervise.py" in word for word in p.cmdline()))
        dvc = next(p for p in tree if p.ppid() == supervisor.pid)
        os.kill({"owner": owner.pid, "supervisor": supervisor.pid, "dvc": dvc.pid}[victim], signal.SIGKILL)
        wait_for(lambda: all(gone(p.pid) for p in tree), seconds=5.0)
    finally:
        owner.kill()
        owner.wait()


def test_after_a_kill_the_next_attempt_runs_without_cleaning_by_hand(tmp_path):
    root = make_project(tmp_path / "p", a={"seconds": 60.0})
    runner = LocalRunner()
    job = runner.submit(spec(root, "a"))
    stage_pid(root, "a")
    runner.cancel_all(at_once=True)
    with pytest.raises(StageStoppedError):
        runner.wait(job, lambda _: None)
    set_params(root)
    assert do(root, "a")[0].outcome is Outcome.RAN


def test_locks_of_dead_processes_are_dropped_and_those_of_live_ones_kept(tmp_path):
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    clear_dead_locks(tmp_path)  # nothing there, nothing to do
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    path.write_text(json.dumps({"write": {"/x": {"pid": zombie.pid, "cmd": "dvc"}}}))
    clear_dead_locks(tmp_path)
    assert not path.exists()
    zombie.wait()
    path.write_text(json.dumps({"read": {"/x": [{"pid": os.getpid(), "cmd": "dvc"}]}, "write": {}}))
    clear_dead_locks(tmp_path)
    assert path.exists()
    path.write_text('{"wri')  # killed while it wrote
    clear_dead_locks(tmp_path)
    assert not path.exists()
