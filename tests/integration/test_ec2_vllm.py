"""A stage whose engine is vLLM on a simulated instance that has vLLM's environment: neither Prefect nor MLflow. Run by `make test-vllm`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flows.on_ec2 import account_of, stage_facts
from flows.params import profile_params, write_params
from flows.yaml_io import read_yaml
from infra.ec2.environments import VLLM
from infra.ec2.resources import Request, load_resources
from infra.ec2.runner import Ec2Runner
from infra.ec2.spec import Rhythm
from infra.jobs import JobSpec, Outcome
from infra.settings import child_environment, load_settings
from infra.sim.cloud import SimulatedCloud
from tests.infra.sim.permission import need_namespaces
from tests.integration.tree import ROOT, copy_project, reproduce

pytestmark = pytest.mark.timeout(1200)

STAGE = "rl@stage1"
ENVIRONMENT = ROOT / ".venv-vllm"
NOT_THERE = ("prefect", "mlflow", "moto")


def missing(package):
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is not None)"
    return subprocess.run([ENVIRONMENT / "bin" / "python", "-c", code], check=False).returncode == 0


def test_a_stage_with_vllm_is_done_on_a_node_that_has_neither_prefect_nor_mlflow(tmp_path, monkeypatch):
    need_namespaces()
    if not (ENVIRONMENT / ".complete").is_file():
        pytest.skip("no environment with vLLM: make .venv-vllm/.complete")
    assert all(missing(package) for package in NOT_THERE)

    tree = copy_project(tmp_path / "longfuse")
    model = tree / "stages/base_model/random_model.py"
    model.write_text(model.read_text().replace("head_dim=16", "head_dim=32"))  # the smallest of vLLM's CPU kernels
    params = profile_params("plumbing")
    write_params(tree / "params.yaml", params)
    reproduce(tree, "sft")  # what the stage reads: made here, with the other engine
    reproduce(tree, "stratify")
    params["train"]["engine"].update(kind="vllm", gpu_memory_utilization=0.05, sleep_level=0)
    write_params(tree / "params.yaml", params)

    with SimulatedCloud(tmp_path / "cloud", prebuilt=ENVIRONMENT) as cloud:
        for name, value in {**cloud.environment, "LONGFUSE_BUCKET": cloud.bucket}.items():
            monkeypatch.setenv(name, value)
        metrics, lines = [], []
        runner = Ec2Runner(
            account_of(load_resources().account).model_copy(update={"wheelhouse": False}),
            lambda _stage: Request(accelerator="cpu", budget_usd=5.0, runtime_hours=0.3, disk_gb=20),
            lambda stage: stage_facts(tree, read_yaml(tree / "params.yaml"), stage),
            lambda _stage, _facts, data: metrics.append(data),
            Rhythm(poll_seconds=1.0, heartbeat_seconds=2.0),
        )
        job = runner.submit(
            JobSpec(stage=STAGE, root=tree, environment=child_environment(load_settings(tree), stage=STAGE))
        )
        assert job.run.work["install"] == VLLM.install == ["-r", "constraints-vllm.txt"]
        assert runner.wait(job, lines.append).outcome is Outcome.RAN, "\n".join(lines)

    record = json.loads((tree / f"outputs/rl/{STAGE[3:]}/record.json").read_text())
    assert record["config"]["train"]["engine"]["kind"] == "vllm"
    assert record["counts"]["updates"] == params["rl"]["stage1"]["steps"] > record["counts"]["updates_without_signal"]
    assert record["counts"]["rollout_tokens"] > 0
    assert b"reward/mean" in b"".join(metrics)
    assert sys.prefix != str(ENVIRONMENT)
