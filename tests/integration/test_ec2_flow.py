"""`longfuse run --on ec2 --simulate` of one cheap stage, and what the two pages and the working tree have of it."""

from __future__ import annotations

import json
import sqlite3
import subprocess

import pytest
import yaml

from tests.infra.sim.permission import need_namespaces
from tests.integration.tree import copy_project, longfuse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_stage_on_ec2_is_on_both_pages_and_its_outputs_are_here(tmp_path):
    need_namespaces()
    tree = copy_project(tmp_path / "longfuse")
    resources = tree / "infra" / "resources.yaml"
    asked = yaml.safe_load(resources.read_text())
    asked["profiles"]["plumbing"]["stages"] = {
        "ingest": {"accelerator": "cpu", "markets": ["on-demand"], "runtime_hours": 1, "budget_usd": 2}
    }
    resources.write_text(yaml.safe_dump(asked))

    first = longfuse(tree, "run", "--profile", "plumbing", "--only", "base_model", "--on", "ec2", "--simulate")
    assert first.returncode == 0, first.stdout + first.stderr  # not named there: on this machine

    plan = longfuse(tree, "plan", "--only", "ingest", "--on", "ec2")
    assert "ingest: cpu, an attempt ends after 2 h; at most 2 USD" in plan.stdout, plan.stdout + plan.stderr

    done = longfuse(tree, "run", "--only", "ingest", "--on", "ec2", "--simulate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tree / "outputs/ingest/data/documents/general.jsonl").stat().st_size > 100_000
    assert set(yaml.safe_load((tree / "dvc.lock").read_text())["stages"]) == {"base_model", "ingest"}

    (path,) = tree.glob(".state/ingest/*/run.json")
    record = json.loads(path.read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=True)
    assert (record["commit"], record["dirty"]) == (head.stdout.strip(), True)  # with the resources changed above
    assert record["machine"]["cpu"].startswith("EC2 m6i.xlarge (on-demand, us-east-1a)")

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tree}/.state/mlflow/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    children = {run.data.tags["stage.name"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert set(children) == {"base_model", "ingest"}
    assert not [name for name in children["base_model"].data.tags if name.startswith("ec2.")]
    child = children["ingest"]
    assert child.info.status == "FINISHED"
    tags = {name: value for name, value in child.data.tags.items() if name.startswith("ec2.")}
    assert (tags["ec2.run"], tags["ec2.commit"]) == (record["ec2_run"], record["commit"])
    assert (tags["ec2.instance_type"], tags["ec2.market"], tags["ec2.attempt"]) == ("m6i.xlarge", "on-demand", "1")
    assert float(tags["ec2.cost_usd"]) == record["cost_usd"] > 0

    with sqlite3.connect(f"file:{tree}/.state/prefect/prefect.db?mode=ro", uri=True) as pages:
        (text,) = pages.execute("select data from artifact where key = ?", (f"ec2-{record['ec2_run']}",)).fetchone()
    assert "**succeeded**" in text
    assert record["attempts"][0].removeprefix("attempt 1: ") in text

    again = longfuse(tree, "run", "--only", "ingest", "--on", "ec2", "--simulate")
    assert "nothing to do" in again.stdout.lower()
