"""Trajectories that a stage recorded, sent by the tracker and read back with MLflow's own client."""

from __future__ import annotations

import json
import logging

import pytest

from infra.mlflow_store import open_store
from infra.settings import load_settings
from infra.spool import SENT_NAME, MetricSpool, start_stage_run
from infra.tracking import PipelineTracker
from infra.trajectories import TrajectorySender
from stages.engines.scripted_engine import ScriptedEngine
from stages.memory.agent import MemoryAgent
from stages.memory.record import trajectory_record, verdict_record

TEXT = "The Elbe flows to Hamburg. " * 60


def script(prompt, request, index):
    if "You have read a long text" in prompt:
        return "To Hamburg."
    number = int(prompt.rsplit('<section number="', 1)[1].split('"')[0])
    return "no tags at all" if number == 2 else f"<memory>memory {number} é</memory><plan>plan {number}</plan>"


@pytest.fixture(scope="module")
def result():
    return MemoryAgent(ScriptedEngine(script), 500, 60, 200, 50).answer("Where does the Elbe flow?", TEXT)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = load_settings(tmp_path_factory.mktemp("traced"), {})
    made.mlflow_dir.mkdir(parents=True)
    open_store(made)
    return made


def record_of(result, key):
    return trajectory_record(
        key, "Where does the Elbe flow?", result, {"sample_id": key, "reward": 0.5, "gold": "a\ud800\x00"}
    )


def spool_of(settings, parent, stage, fingerprint):
    """What `flows.stage` opens in the stage's process."""
    folder = settings.state_dir / stage / fingerprint
    return start_stage_run(
        settings.model_copy(update={"parent_run": parent}),
        stage=stage,
        fingerprint=fingerprint,
        params={},
        state_dir=folder,
        data_dir=folder / "data",
        record=folder / "record.json",
    )


def one_run(settings, stage, fingerprint, work, status="FINISHED", interval_seconds=60.0):
    """A pipeline run with one stage that does `work(spool)`; the id of the stage's MLflow run."""
    tracker = PipelineTracker(settings, interval_seconds=interval_seconds)
    parent = tracker.start("run", {"git.commit": "abc"}, {}).result()
    tracker.stage_started(stage)
    work(spool_of(settings, parent, stage, fingerprint))
    run_id = tracker.stage_ended(stage, status, None).result()
    tracker.end(status)
    return run_id


def traces(settings, stage):
    client, experiment = open_store(settings)
    found = client.search_traces([experiment], filter_string=f"tags.`stage.name` = '{stage}'")
    return sorted(found, key=lambda trace: trace.info.request_time)


def test_a_trajectory_is_a_trace_of_the_stages_run_with_a_span_per_turn(settings, result):
    def work(spool):
        spool(0, {"reward/mean": 0.5})
        spool.trajectory(record_of(result, "update-1/s-1/0"))
        spool.finish()

    run_id = one_run(settings, "memory_rl", "a" * 64, work)
    (trace,) = traces(settings, "memory_rl")
    assert trace.info.state == "OK"
    assert trace.info.trace_metadata["mlflow.sourceRun"] == run_id
    assert trace.info.tags["stage.fingerprint"] == "a" * 64
    assert trace.info.tags["git.commit"] == "abc"
    root, *children = sorted(trace.data.spans, key=lambda span: (span.parent_id is not None, span.start_time_ns))
    assert root.name == trace.info.tags["mlflow.traceName"] == "memory_rl"
    assert (root.inputs, root.outputs) == ({"question": "Where does the Elbe flow?"}, {"answer": "To Hamburg."})
    told = root.attributes
    assert (told["sample_id"], told["reward"], told["turns"]) == ("update-1/s-1/0", 0.5, len(result.turns))
    assert (told["parse_failures"], told["gold"]) == (1, "a?\x00")  # half a character, which no store takes
    assert [span.name for span in children] == [f"section {turn.number}" for turn in result.turns] + ["answer"]
    assert {span.parent_id for span in children} == {root.span_id}
    tokens = 0
    for span, turn in zip(children, result.turns, strict=False):
        told = span.attributes
        assert (told["chunk_start_token"], told["chunk_end_token"]) == (tokens, tokens + turn.chunk_tokens)
        tokens += turn.chunk_tokens
        assert (told["chunk_start_character"], told["chunk_end_character"]) == (turn.chunk_start, turn.chunk_end)
        assert (told["prompt_tokens"], told["response_tokens"]) == (turn.prompt_tokens, turn.response_tokens)
        assert (told["parsed"], told["seconds"]) == (turn.number != 2, turn.seconds)
        assert root.start_time_ns <= span.start_time_ns <= span.end_time_ns <= root.end_time_ns
    assert tokens == len(TEXT)
    assert children[0].inputs == {"memory": "", "plan": ""}
    assert children[1].inputs == {"memory": "memory 1 é", "plan": "plan 1"} == children[1].outputs  # kept
    assert children[-1].outputs == {"answer": "To Hamburg."}
    client, _ = open_store(settings)
    assert client.get_run(run_id).data.metrics["reward/mean"] == 0.5


def test_a_resumed_stage_sends_what_is_new_and_nothing_twice(settings, result):
    def killed(spool):
        spool.trajectory(record_of(result, "one"))
        spool.trajectory(record_of(result, "two"))
        spool.close()

    def resumed(spool):
        spool.trajectory(record_of(result, "two"))  # the update was done again from an older checkpoint
        spool.trajectory(record_of(result, "three"))
        spool.finish()

    first = one_run(settings, "resumed", "b" * 64, killed, "KILLED")
    second = one_run(settings, "resumed", "b" * 64, resumed)
    found = {trace.data.spans[0].attributes["sample_id"]: trace for trace in traces(settings, "resumed")}
    assert len(traces(settings, "resumed")) == 3
    runs = {key: trace.info.trace_metadata["mlflow.sourceRun"] for key, trace in found.items()}
    assert runs == {"one": first, "two": first, "three": second}


def test_one_that_was_sent_by_a_process_that_died_before_it_could_say_so_is_there_once(settings, result):
    def work(spool):
        spool.trajectory(record_of(result, "one"))
        spool.close()

    one_run(settings, "died", "c" * 64, work, "KILLED")
    (settings.state_dir / "died" / ("c" * 64) / SENT_NAME).unlink()
    one_run(settings, "died", "c" * 64, lambda spool: spool.finish())
    (trace,) = traces(settings, "died")
    assert len(trace.data.spans) == len(result.turns) + 2


def test_a_stage_that_is_done_anew_is_recorded_anew(settings, result):
    def work(spool):
        record = record_of(result, "one")
        spool.trajectory({**record, "ended_ms": record["ended_ms"] + next(later)})
        spool.finish()

    later = iter((0, 1000))
    runs = {one_run(settings, "anew", "d" * 64, work) for _ in range(2)}
    assert {trace.info.trace_metadata["mlflow.sourceRun"] for trace in traces(settings, "anew")} == runs


def test_traces_arrive_while_the_stage_is_at_work_and_a_broken_record_holds_up_none(settings, result, caplog):
    def work(spool):
        spool.trajectory({"key": "broken"})
        for number in range(6):
            spool.trajectory(record_of(result, f"{number}"))
        for _ in range(400):
            if len(traces(settings, "live")) == 6:
                break
        assert len(traces(settings, "live")) == 6
        spool(0, {"x": 1.0})
        spool.finish()

    with caplog.at_level(logging.WARNING, logger="infra"):
        run_id = one_run(settings, "live", "e" * 64, work, interval_seconds=0.02)
    assert "1 trajectories of live could not be sent" in caplog.text
    client, _ = open_store(settings)
    assert client.get_run(run_id).data.metrics["x"] == 1.0


def test_a_store_that_is_down_is_told_once_and_what_waits_is_sent_when_it_is_back(
    tmp_path, settings, result, caplog, monkeypatch
):
    down = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    _, experiment = open_store(settings)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sent = tmp_path / SENT_NAME

    def sender(store):
        made = TrajectorySender(store, experiment, "r" * 32, {"stage.name": "down"}, "f" * 64, sent)
        made.take(record_of(result, "one"))
        return made

    with caplog.at_level(logging.WARNING, logger="infra"):
        broken = sender(down)
        with pytest.raises(Exception, match=r"127\.0\.0\.1.*refused"):
            broken.send()
        broken.finish()
    assert [record.levelname for record in caplog.records if record.name == "infra.trajectories"] == ["WARNING"]
    assert "1 trajectories of down could not be sent" in caplog.text
    assert not sent.exists()
    sender(settings).finish()  # the next run
    assert len(traces(settings, "down")) == 1
    assert json.loads(sent.read_text()) == "one"


def test_what_cannot_be_spooled_is_told_once_and_raises_nothing(tmp_path, caplog):
    spool = MetricSpool(tmp_path / "s.jsonl")
    with caplog.at_level(logging.WARNING, logger="infra.spool"):
        for _ in range(2):
            spool.trajectory({"key": "x", "what": object()})
    spool(0, {"x": 1.0})
    spool.close()
    assert len(caplog.records) == 1
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 1


def test_a_verdict_that_comes_later_is_a_tag_of_its_trace_also_after_a_kill(settings, result):
    record = record_of(result, "one")

    def killed(spool):
        spool.trajectory(record)
        spool.close()

    def resumed(spool):
        spool.trajectory(verdict_record("one", "yes", 1.0))
        spool.trajectory(verdict_record("never recorded", "no", 0.0))
        spool.finish()

    one_run(settings, "judged", "e" * 64, killed, status="FAILED")
    assert "judge" not in traces(settings, "judged")[0].info.tags
    one_run(settings, "judged", "e" * 64, resumed)
    (trace,) = traces(settings, "judged")
    assert (trace.info.tags["judge"], trace.info.tags["score"]) == ("yes", "1.0")


def test_a_verdict_that_is_known_at_once_is_a_tag_and_an_attribute(settings, result):
    record = record_of(result, "one")
    record["attributes"]["judge"] = "no"

    def work(spool):
        spool.trajectory(record)
        spool.finish()

    one_run(settings, "judged_at_once", "f" * 64, work)
    (trace,) = traces(settings, "judged_at_once")
    assert trace.info.tags["judge"] == "no"
    assert trace.data.spans[0].attributes["judge"] == "no"
