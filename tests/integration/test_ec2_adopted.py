"""A run whose keeper was killed, adopted by `longfuse jobs adopt`: what a live Prefect server and a live MLflow server have of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows.job_tracking import JobTracking
from flows.params import profile_params
from infra.ec2.runner import StageFacts
from infra.mlflow_store import open_store
from infra.servers import hold, mlflow_spec, prefect_spec
from infra.settings import load_settings, prefect_environment
from infra.tracking import PipelineTracker
from tests.infra.ec2.desk import RHYTHM, Desk
from tests.integration.test_ec2_commands import PATIENCE_SECONDS, longfuse, root  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGE, FINGERPRINT = "rl@stage1", "e" * 64
KEEPER = """
import sys
from infra.ec2.aws import Clients
from infra.ec2.controller import Controller
from infra.ec2.follower import Follower
from infra.ec2.store import RunStore
store = RunStore(Clients(), sys.argv[1], "us-east-1", sys.argv[2])
controller = Controller(Clients(), store, store.spec(), Follower(on_line=print))
controller.take()
controller.run()
"""


def artifact(address, key):
    with urllib.request.urlopen(f"{address}/api/artifacts/{key}/latest", timeout=30) as answer:
        return json.loads(answer.read())


def test_the_pages_have_an_adopted_run_whole(root, simulated, monkeypatch):  # noqa: F811
    settings = load_settings(root, {})
    open_store(settings)  # as the flow does, before anything serves it
    folder = f".state/{STAGE}/{FINGERPRINT}"
    with hold(prefect_spec(settings)) as prefect, hold(mlflow_spec(settings)) as mlflow:
        prefect.wait_until_healthy()
        mlflow.wait_until_healthy()
        desk = Desk(
            simulated,
            4,
            0.05,
            gate=2,
            rhythm=RHYTHM.model_copy(update={"lease_seconds": 3.0}),
            stage=STAGE,
            fingerprint=FINGERPRINT,
        )
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, simulated.bucket, desk.run_id],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.DEVNULL,
        )
        desk.wait_commit(2)
        keeper.kill()
        keeper.wait()
        desk.until(lambda: desk.store.read_json("lease")["expires"] < time.time(), "the end of the dead one's lease")
        desk.let(4)
        adopted = longfuse(root, "adopt", desk.run_id).communicate(timeout=PATIENCE_SECONDS)[0]
        assert f"run {desk.run_id}: its page is in Prefect" in adopted, adopted
        assert f"run {desk.run_id}: succeeded" in adopted
        (instance,) = desk.instances()
        page = artifact(prefect.address, f"ec2-{desk.run_id}")
        assert page["type"] == "markdown"
        assert f"Run `{desk.run_id}`: **succeeded**" in page["data"]
        assert f"| attempt 1 | spot-g5.xlarge-us-east-1a {instance} succeeded |" in page["data"]

        # The `longfuse run` that collects the result: what the dead keeper had heard, too, is in MLflow, each step once.
        for name, value in prefect_environment(settings, f"{prefect.address}/api").items():
            monkeypatch.setenv(name, value)
        collecting = settings.model_copy(update={"mlflow_tracking_uri": mlflow.address})
        tracker = PipelineTracker(collecting, interval_seconds=0.05)
        parent = tracker.start("run", {}, {}).result(60)
        told = JobTracking(
            collecting.model_copy(update={"parent_run": parent}), profile_params("plumbing"), tracker.tag_stage
        )
        facts = StageFacts(
            fingerprint=FINGERPRINT, command="c", inputs={}, parameters={}, upstream=(), outputs=(), state_folder=folder
        )
        tracker.stage_started(STAGE)
        controller = desk.make(on_metrics=lambda data: told.take(STAGE, facts, data))
        controller.take()
        state = controller.run()
        controller.catch_up()
        told.ended(desk.spec.model_copy(update={"work": {**desk.spec.work, "state_folder": folder}}), state)
        tracker.stage_ended(STAGE, "FINISHED", None).result(60)
        tracker.end("FINISHED")
        client, experiment = open_store(collecting)
        (child,) = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
        assert [point.step for point in client.get_metric_history(child.info.run_id, "count")] == [1, 2, 3, 4]
        assert (child.data.tags["ec2.run"], child.data.tags["ec2.outcome"]) == (desk.run_id, "succeeded")
    assert desk.alive() == []
