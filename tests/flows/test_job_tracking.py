"""A job's measurements and tags in a real MLflow store, and the text of its page."""

import json
from dataclasses import replace

import pytest

from flows.job_tracking import JobTracking, page_of, publish_adopted, tags_of
from flows.params import profile_params
from infra.ec2.reducer import State
from infra.ec2.runner import StageFacts
from infra.mlflow_store import open_store
from infra.settings import load_settings
from infra.tracking import PipelineTracker
from tests.infra.ec2.test_reducer import run_spec

STAGE, FINGERPRINT = "rl@stage1", "e" * 64
FOLDER = f".state/rl@stage1/{FINGERPRINT}"
STATE = State(
    phase="closed", attempt=2, candidate=1, outcome="succeeded", spent_usd=1.25, image="ami-1",
    history=("attempt 1: spot-g5.xlarge-us-east-1a i-1 interrupted", "attempt 2: spot-g5.xlarge-us-east-1b i-2 succeeded"),
    passed_over=("attempt 2: spot-g5.xlarge-us-east-1a: InsufficientInstanceCapacity",),
)  # fmt: skip
RUN = run_spec(
    stage=STAGE,
    fingerprint=FINGERPRINT,
    work={"state_folder": FOLDER},
    not_tried=("quota L-1 is 0",),
    unknown=("quota L-2 was not read",),
)


def measured(*steps, time_ms):
    return "".join(
        json.dumps({"step": n, "time_ms": time_ms, "metrics": {"loss": n / 10}}) + "\n" for n in steps
    ).encode()


@pytest.fixture
def settings(tmp_path):
    return load_settings(tmp_path, {})


def track(settings, chunks):
    """One `longfuse run` that gets these chunks of a job; the child runs that it made."""
    tracker = PipelineTracker(settings, interval_seconds=0.05)
    parent = tracker.start("run", {}, {}).result()
    told = JobTracking(
        settings.model_copy(update={"parent_run": parent}), profile_params("plumbing"), tracker.tag_stage
    )
    facts = StageFacts(
        fingerprint=FINGERPRINT, command="c", inputs={}, parameters={}, upstream=(), outputs=(), state_folder=FOLDER
    )
    tracker.stage_started(STAGE)
    for chunk in chunks:
        told.take(STAGE, facts, chunk)
    told.ended(RUN, STATE)
    tracker.stage_ended(STAGE, "FINISHED", None).result()
    tracker.end("FINISHED")
    client, experiment = open_store(settings)
    return client, client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")


def test_one_mlflow_run_has_each_step_of_all_attempts_once_and_says_where_it_ran(settings, monkeypatch):
    monkeypatch.setattr("flows.job_tracking.publish_job", lambda *_: None)
    first = [measured(1, 2, 3, time_ms=1)]
    client, (child,) = track(settings, [*first, measured(2, 3, 4, time_ms=2)])
    assert [point.step for point in client.get_metric_history(child.info.run_id, "loss")] == [1, 2, 3, 4]
    tags = {name: value for name, value in child.data.tags.items() if name.startswith("ec2.")}
    assert tags == tags_of(RUN, STATE)
    assert (tags["ec2.instance_type"], tags["ec2.market"], tags["ec2.region"]) == ("g5.xlarge", "spot", "us-east-1")
    assert (tags["ec2.attempt"], tags["ec2.cost_usd"], tags["ec2.image"]) == ("2", "1.2500", "ami-1")

    # Another process adopts the run and gets everything from the beginning: its MLflow run is whole, and nothing is twice.
    client, (child,) = track(settings, [*first, measured(2, 3, 4, time_ms=2), measured(5, time_ms=3)])
    assert [point.step for point in client.get_metric_history(child.info.run_id, "loss")] == [1, 2, 3, 4, 5]


def test_the_page_tells_attempts_what_was_not_taken_and_who_goes_on():
    page = page_of(RUN, STATE)
    for line in ("**succeeded**", "| attempt 1 | spot-g5.xlarge-us-east-1a i-1 interrupted |", "- quota L-1 is 0"):
        assert line in page
    assert "InsufficientInstanceCapacity" in page
    assert page.index("Not known when it began:") < page.index("- quota L-2 was not read")
    assert "adopt" not in page
    lost = page_of(RUN, replace(STATE, phase="watching", outcome="", message="the credentials have expired"))
    assert "**watching** the credentials have expired" in lost
    assert "longfuse jobs adopt test-run" in lost


def test_without_a_server_of_this_project_an_adopted_run_has_no_page(settings, monkeypatch):
    written = []
    monkeypatch.setattr("flows.job_tracking.publish_job", lambda *given: written.append(given))
    assert publish_adopted(settings, RUN, STATE) is False
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert (
        publish_adopted(settings.model_copy(update={"prefect_api_url": "http://127.0.0.1:1/api"}), RUN, STATE) is True
    )
    assert written == [(RUN, STATE)]
