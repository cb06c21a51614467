"""A diamond of four real stages through Prefect, DVC and MLflow; each run is a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.journal import read_journal
from infra.mlflow_store import open_store
from infra.servers import hold, prefect_spec
from infra.settings import TELEMETRY_OFF, load_settings
from tests.diamond_project import make_project, set_params, value_of

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory):
    """One server for the module; a start costs several seconds."""
    with hold(prefect_spec(load_settings(tmp_path_factory.mktemp("prefect"), {}))) as server:
        server.wait_until_healthy()
        yield f"{server.address}/api"


def environment(prefect_api: str | None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW", "LONGFUSE"))}
    found = {**kept, **TELEMETRY_OFF, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    return found | ({"PREFECT_API_URL": prefect_api} if prefect_api else {})


def start(root: Path, prefect_api: str | None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.diamond_project", str(root)],
        env=environment(prefect_api),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(root: Path, prefect_api: str | None) -> tuple[int, str]:
    process = start(root, prefect_api)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def states(root: Path) -> dict[str, str]:
    record = read_journal(root / ".state")
    return {entry.stage: entry.state for entry in record.stages}


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def flow_runs(prefect_api: str, root: Path) -> list[dict]:
    """Runs of one tree, the oldest first."""
    code = (
        "import json; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as c:\n"
        "    print(json.dumps([{'id': str(r.id), 'state': r.state.type.value, 'message': r.state.message,"
        " 'tags': r.tags} for r in c.read_flow_runs(sort='START_TIME_ASC', limit=200)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(prefect_api), capture_output=True, text=True, check=True
    )
    tree = f"tree:{(root / '.state' / 'tree_id').read_text()}"
    return [run for run in json.loads(done.stdout) if tree in run["tags"]]


def test_first_run_does_all_stages_and_records_them(tmp_path, prefect_api):
    root = make_project(tmp_path / "p")
    exit_code, out = run(root, prefect_api)
    assert exit_code == 0, out
    assert value_of(root, "d") == [1, '[1, "[1]"]', '[1, "[1]"]']
    assert states(root) == dict.fromkeys("abcd", "ran")
    assert "hello from d" in out
    assert re.search(r"Page of this run: http://127\.0\.0\.1:\d+/\S+", out)

    record = read_journal(root / ".state")
    client, experiment = open_store(load_settings(root, {}))
    parent = client.get_run(record.mlflow_run)
    assert parent.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(record.mlflow_run)} >= {
        "params.yaml", "dvc.lock", "pip-freeze.txt", "run.md", "run.html",
    }  # fmt: skip
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{record.mlflow_run}'")
    assert sorted(child.data.tags["stage.name"] for child in children) == ["a", "b", "c", "d"]
    assert {entry.mlflow_run for entry in record.stages} == {child.info.run_id for child in children}
    assert all(child.data.metrics["reward/mean"] == 1.0 for child in children)
    lineage = (root / ".state" / "report" / "run.md").read_text()
    assert f"MLflow run: {record.mlflow_run}" in lineage
    assert re.search(r"\| d \| (b, c, step\.py|step\.py, b, c) \|", lineage)  # made from
    assert lineage.count("| ran |") == 4

    started = time.monotonic()
    exit_code, out = run(root, None)  # without a server: it must not start one
    assert (exit_code, out.strip()) == (0, "Nothing to do: all 4 stages are up to date.")
    assert time.monotonic() - started < 30
    assert not (root / ".state" / "prefect").exists()


@pytest.mark.slow
def test_changed_stage_and_those_below_run_and_the_way_back_is_restored(tmp_path, prefect_api):
    root = make_project(tmp_path / "p")
    assert run(root, prefect_api)[0] == 0
    made = {entry.stage: entry.mlflow_run for entry in read_journal(root / ".state").stages}
    set_params(root, c={"x": 2})
    assert run(root, prefect_api)[0] == 0
    assert states(root) == {"a": "skipped", "b": "skipped", "c": "ran", "d": "ran"}
    assert value_of(root, "c")[0] == 2
    set_params(root)
    assert run(root, prefect_api)[0] == 0
    assert states(root) == {"a": "skipped", "b": "skipped", "c": "restored", "d": "restored"}
    assert value_of(root, "c")[0] == 1
    assert made.keys() == set("abcd")


@pytest.mark.slow
def test_failing_stage_stops_what_depends_on_it_only_and_the_next_run_continues(tmp_path, prefect_api):
    root = make_project(tmp_path / "p", b={"fail": True})
    exit_code, out = run(root, prefect_api)
    assert exit_code == 1
    assert states(root) == {"a": "ran", "b": "failed", "c": "ran", "d": "not_run"}
    assert "Stage b failed" in out
    assert "b is broken: mend it" in out
    assert "Finished in this run: a, c." in out
    assert "Not run: d." in out
    assert "the next `longfuse run` continues" in out
    assert "Traceback" not in out
    assert flow_runs(prefect_api, root)[0]["state"] == "FAILED"
    set_params(root)
    exit_code, out = run(root, prefect_api)
    assert exit_code == 0
    assert states(root) == {"a": "skipped", "b": "ran", "c": "skipped", "d": "ran"}


def stage_pid(root: Path, stage: str) -> int:
    path = root / ".state" / f"{stage}.pid"
    wait_for(lambda: path.is_file() and path.read_text().strip())
    return int(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_run_without_a_trace_and_says_what_was_finished(tmp_path, prefect_api, number, exit_code):
    root = make_project(tmp_path / "p", b={"seconds": 100.0})
    process = start(root, prefect_api)
    stage_pid(root, "b")
    wait_for(lambda: states(root)["c"] == "ran")
    tree = psutil.Process(process.pid).children(recursive=True)
    assert tree
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == exit_code, out
    assert "Finished in this run: a, c." in out
    assert "Stopped: b." in out
    assert "Traceback" not in out
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree), 5.0)
    assert flow_runs(prefect_api, root)[0]["state"] == "CRASHED"
    set_params(root)
    assert run(root, prefect_api)[0] == 0
    assert states(root) == {"a": "skipped", "b": "ran", "c": "skipped", "d": "ran"}


@pytest.mark.slow
def test_killed_run_leaves_nothing_and_the_next_one_marks_it_crashed_and_goes_on(tmp_path, prefect_api):
    root = make_project(tmp_path / "p", b={"seconds": 100.0})
    process = start(root, prefect_api)
    stage_pid(root, "b")
    tree = psutil.Process(process.pid).children(recursive=True)
    busy_code, busy = run(root, prefect_api)
    assert busy_code == 1
    assert f"process {process.pid}" in busy  # this tool prints the traceback; the command line does not
    process.kill()
    process.communicate()
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree), 5.0)
    ours = flow_runs(prefect_api, root)
    assert [r["state"] for r in ours] == ["RUNNING"]
    assert f"pid:{process.pid}" in ours[0]["tags"]
    dead_parent = read_journal(root / ".state").mlflow_run
    set_params(root)
    assert run(root, prefect_api)[0] == 0
    after = flow_runs(prefect_api, root)
    assert [r["state"] for r in after] == ["CRASHED", "COMPLETED"]
    assert f"pid:{process.pid}" in after[0]["message"]
    client, _ = open_store(load_settings(root, {}))
    assert client.get_run(dead_parent).info.status == "KILLED"
