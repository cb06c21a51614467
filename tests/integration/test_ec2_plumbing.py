"""A training stage on simulated EC2 instances that are taken away in the middle ends with the weights of a local run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml

from flows.on_ec2 import account_of, stage_facts
from flows.params import load_params, profile_params, write_params
from infra.ec2.resources import load_resources
from infra.ec2.runner import Ec2Job, Ec2Runner
from infra.ec2.spec import Rhythm
from infra.jobs import JobSpec, Outcome
from infra.settings import child_environment, load_settings
from infra.sim.cloud import SimulatedCloud
from tests.infra.sim.permission import need_namespaces
from tests.integration.tree import copy_project, reproduce

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STAGE = "rl@stage2"
STEPS = 3
RHYTHM = Rhythm(poll_seconds=1.0, heartbeat_seconds=2.0, log_seconds=1.0, checkpoint_seconds=0.5)


def local_run(tree: Path) -> dict:
    """The stage and what it needs, on this machine; its entry of dvc.lock, which is then taken out."""
    params = profile_params("plumbing")
    params["rl"]["stage2"]["steps"] = STEPS
    params["sft"]["steps"] = 10  # what leads there may be short
    write_params(tree / "params.yaml", params)
    reproduce(tree, STAGE)
    lock = yaml.safe_load((tree / "dvc.lock").read_text())
    entry = lock["stages"].pop(STAGE)
    (tree / "dvc.lock").write_text(yaml.safe_dump(lock))
    return entry


def committed_steps(job: Ec2Job) -> int:
    """Updates that the newest checkpoint in the bucket holds."""
    commits = sorted(key for key in job.store.keys("ckpt/") if key.endswith("COMMIT"))
    files = (job.store.read_json(commits[-1]) or {"files": {}})["files"] if commits else {}
    return max(
        (int(name.split("/")[0].partition("-")[2]) for name in files if name.startswith("checkpoint-")), default=0
    )


def run_on_instances(tree: Path, cloud: SimulatedCloud, lines: list[str]) -> Ec2Job:
    """The stage by the runner of the flow; taken away after its first update without notice, after its second with one."""
    runner = Ec2Runner(
        account_of(load_resources().account).model_copy(update={"wheelhouse": False}),  # the environment is prebuilt
        lambda stage: load_resources().request("plumbing", stage),
        lambda stage: stage_facts(tree, load_params(tree / "params.yaml"), stage),
        rhythm=RHYTHM,
    )
    job = runner.submit(
        JobSpec(stage=STAGE, root=tree, environment=child_environment(load_settings(tree), stage=STAGE))
    )

    def take_away() -> None:
        for updates in (1, 2):
            cloud.wait(lambda updates=updates: committed_steps(job) >= updates, 500, f"update {updates}")
            instance = cloud.alive()[0]["id"]
            if updates == 1:
                cloud.spot_kill(instance)
            else:
                cloud.spot_notice(instance, seconds=60)
            cloud.wait(lambda instance=instance: instance not in [i["id"] for i in cloud.alive()], 90, "its end")

    thief = threading.Thread(target=take_away)
    thief.start()
    assert runner.wait(job, lines.append).outcome is Outcome.RAN
    thief.join()
    return job


def test_rl_taken_away_twice_ends_with_the_weights_of_the_local_run(tmp_path, monkeypatch):
    need_namespaces()
    tree = copy_project(tmp_path / "longfuse")
    expected = local_run(tree)
    lines: list[str] = []
    with SimulatedCloud(tmp_path / "cloud") as cloud:
        for name, value in {**cloud.environment, "LONGFUSE_BUCKET": cloud.bucket, "OMP_NUM_THREADS": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tree)
        job = run_on_instances(tree, cloud, lines)
        assert [line.split()[-1] for line in job.final.history] == ["lost", "interrupted", "succeeded"]
        assert cloud.alive() == []
        assert len(cloud.calls("RunInstances", status=200)) == 3
    entry = yaml.safe_load((tree / "dvc.lock").read_text())["stages"][STAGE]
    assert entry["outs"] == expected["outs"]
    assert entry["deps"] == expected["deps"]
