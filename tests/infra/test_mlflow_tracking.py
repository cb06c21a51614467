"""The tracker against a real sqlite store."""

import json
import logging
import sqlite3

import pytest

from infra.errors import InfraError
from infra.mlflow_store import check_reachable, has_runs, open_store, sqlite_path
from infra.settings import load_settings
from infra.spool import start_stage_run
from infra.tracking import PipelineTracker

ENTRY = {"outs": [{"path": "outputs/sft/data", "md5": "m.dir", "size": 7, "nfiles": 1}]}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """One store for the module: making it takes a second or two."""
    found = load_settings(tmp_path_factory.mktemp("tree"), {})
    open_store(found)
    return found


def stage_in(settings, parent_run, stage, fingerprint, steps=3):
    """What `flows.stage` does in the stage's process; returns the spool before its end."""
    folder = settings.root / "outputs" / stage
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps({"counts": {"samples": 9}}))
    (data / "metrics.jsonl").write_text("{}\n")
    (data / "model.bin").write_text("big")
    scores = [{"benchmark": "heldout/numerical", "mode": "full_context", "mean": 0.75}]
    (data / "scores.json").write_text(json.dumps({"model": stage, "scores": scores}))
    spool = start_stage_run(
        settings.model_copy(update={"parent_run": parent_run}),
        stage=stage,
        fingerprint=fingerprint,
        params={"sft": {"steps": steps, "note": "x" * 600}},
        state_dir=settings.state_dir / stage / fingerprint,
        data_dir=data,
        record=folder / "record.json",
    )
    for step in range(steps):
        spool.emit(step, {"reward/mean": step / 10, "time/step_s": 1.0})
    return spool


def runs_of(settings, parent):
    client, experiment = open_store(settings)
    return client, client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")


def test_stage_becomes_a_child_run_with_metrics_params_and_small_artifacts(settings):
    tracker = PipelineTracker(settings, interval_seconds=0.05)
    parent = tracker.start("run", {"git.commit": "abc", "profile": "tiny"}, {"sft": {"steps": 3}}).result()
    tracker.stage_started("sft")
    spool = stage_in(settings, parent, "sft", "f" * 64)
    (settings.state_dir / "sft" / ("f" * 64) / "run.json").write_text('{"seconds": 1}')
    spool.finish()
    child = tracker.stage_ended("sft", "FINISHED", ENTRY).result()
    tracker.tag({"prefect.flow_run": "p1"})
    tracker.end("FINISHED")

    client, children = runs_of(settings, parent)
    assert [run.info.run_id for run in children] == [child]
    run = children[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["stage.fingerprint"] == "f" * 64
    assert run.data.tags["git.commit"] == "abc"
    assert run.data.tags["profile"] == "tiny"
    assert run.data.params == {"sft.steps": "3", "sft.note": "x" * 500}
    history = client.get_metric_history(child, "reward/mean")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert run.data.metrics["count/samples"] == 9.0
    assert run.data.metrics["score/heldout/numerical/full_context"] == 0.75
    names = {file.path for file in client.list_artifacts(child)}
    assert names == {"record.json", "metrics.jsonl", "scores.json", "outputs.json"}
    top = client.get_run(parent)
    assert top.info.status == "FINISHED"
    assert top.data.params == {"sft.steps": "3"}
    assert top.data.metrics["sft/reward/mean"] == 0.2
    assert top.data.tags["ran.sft"] == child
    assert top.data.tags["prefect.flow_run"] == "p1"
    noted = json.loads((settings.state_dir / "sft" / ("f" * 64) / "run.json").read_text())
    assert noted == {"seconds": 1, "mlflow_run": child}
    assert not (settings.state_dir / "tracking" / parent).exists()


def test_metrics_arrive_while_the_stage_is_still_at_work(settings):
    tracker = PipelineTracker(settings, interval_seconds=0.02)
    parent = tracker.start("run", {}, {}).result()
    tracker.stage_started("rl@stage1")
    spool = stage_in(settings, parent, "rl@stage1", "a" * 64)
    for _ in range(200):
        tracker.flush(1.0)
        _, children = runs_of(settings, parent)
        if children and "reward/mean" in children[0].data.metrics:
            break
    assert children[0].data.metrics["reward/mean"] == 0.2
    assert children[0].info.status == "RUNNING"
    spool.close()
    tracker.stage_ended("rl@stage1", "FAILED", None).result()
    tracker.end("FAILED")
    _, children = runs_of(settings, parent)
    assert children[0].info.status == "FAILED"


def test_skipped_stage_is_linked_to_the_run_that_made_it_with_its_headlines(settings):
    first = PipelineTracker(settings, interval_seconds=0.05)
    parent = first.start("first", {}, {}).result()
    first.stage_started("rl@stage2")
    stage_in(settings, parent, "rl@stage2", "b" * 64).finish()
    made = first.stage_ended("rl@stage2", "FINISHED", ENTRY).result()
    first.end("FINISHED")

    second = PipelineTracker(settings, interval_seconds=0.05)
    again = second.start("second", {}, {}).result()
    assert second.link_reused("rl@stage2", "b" * 64).result() == made
    assert second.link_reused("sft", "0" * 64).result() is None
    assert second.link_reused("sft", None).result() is None
    second.end("FINISHED")
    client, children = runs_of(settings, again)
    assert children == []
    top = client.get_run(again)
    assert top.data.tags["reused.rl.stage2"] == made
    assert top.data.metrics["rl.stage2/reward/mean"] == 0.2
    assert top.data.metrics["rl.stage2/score/heldout/numerical/full_context"] == 0.75
    assert "rl.stage2/time/step_s" not in top.data.metrics


def test_stage_that_never_really_ran_has_no_run(settings):
    tracker = PipelineTracker(settings, interval_seconds=0.05)
    parent = tracker.start("run", {}, {}).result()
    tracker.stage_started("sft")
    assert tracker.stage_ended("sft", "FINISHED", None).result() is None
    tracker.end("FINISHED")
    assert runs_of(settings, parent)[1] == []


def test_runs_of_a_killed_process_are_closed_by_the_next_one(settings):
    dead = PipelineTracker(settings, interval_seconds=0.02)
    parent = dead.start("dead", {}, {}).result()
    dead.stage_started("sft")
    stage_in(settings, parent, "sft", "c" * 64).close()
    for _ in range(200):
        dead.flush(1.0)
        if runs_of(settings, parent)[1]:
            break
    tracker = PipelineTracker(settings)  # the other one's process is gone as far as the store can see
    tracker.start("next", {}, {}).result()
    tracker.end("FINISHED")
    client, children = runs_of(settings, parent)
    assert client.get_run(parent).info.status == "KILLED"
    assert [run.info.status for run in children] == ["KILLED"]
    dead.end("KILLED")


def test_error_of_the_store_is_told_once_and_fails_nothing(settings, caplog):
    tracker = PipelineTracker(settings, interval_seconds=0.05)
    parent = tracker.start("run", {}, {}).result()
    tracker.flush(10.0)
    tracker._runs.parent = "no-such-run"
    with caplog.at_level(logging.WARNING, logger="infra.tracking"):
        tracker.log_text("x", "a.txt")
        tracker.tag({"k": "v"})
        tracker.flush(10.0)
    assert len([r for r in caplog.records if r.name == "infra.tracking"]) == 1
    tracker._runs.parent = parent
    tracker.end("FINISHED")


def test_half_made_store_is_moved_aside_and_made_anew(tmp_path):
    settings = load_settings(tmp_path, {})
    path = sqlite_path(settings.mlflow_tracking_uri)
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:  # where a process killed in the first migration leaves it
        database.execute("create table experiments (experiment_id integer)")
        database.execute("create table alembic_version (version_num varchar(32))")
    assert not has_runs(path)
    client, experiment = open_store(settings)
    assert client.get_experiment(experiment).name == "longfuse"
    assert client.get_experiment(experiment).artifact_location == (settings.mlflow_dir / "artifacts").as_uri()
    assert path.with_name("mlflow.db.broken-1").exists()


def test_damaged_store_with_runs_is_never_moved(tmp_path):
    settings = load_settings(tmp_path, {})
    path = sqlite_path(settings.mlflow_tracking_uri)
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("create table runs (run_uuid text)")
        database.execute("insert into runs values ('r1')")
        database.execute("create table alembic_version (version_num varchar(32))")
        database.execute("insert into alembic_version values ('from-the-future')")
    with pytest.raises(InfraError, match="move it away"):
        open_store(settings)
    assert has_runs(path)


def test_unreachable_stores_are_found_before_any_work(tmp_path):
    down = load_settings(tmp_path, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    with pytest.raises(InfraError, match=r"http://127\.0\.0\.1:9 \(MLFLOW_TRACKING_URI\) does not answer"):
        check_reachable(down)
    (tmp_path / "file").write_text("")
    inside_a_file = load_settings(tmp_path, {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/file/mlflow.db"})
    with pytest.raises(InfraError, match="cannot be written"):
        check_reachable(inside_a_file)
    check_reachable(load_settings(tmp_path, {}))
