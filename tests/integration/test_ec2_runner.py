"""Stages of a DVC project on simulated instances, through the runner that the flow uses, and the commands on their runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from flows import jobs
from flows.doctor_ec2 import _security_group, examine_ec2, probe_bucket
from flows.lineage import run_record
from flows.on_ec2 import account_of, stage_facts
from flows.yaml_io import read_yaml
from infra.ec2.aws import Clients
from infra.ec2.resources import load_resources
from infra.ec2.runner import Ec2Runner
from infra.errors import StageFailedError
from infra.jobs import JobSpec, Outcome
from infra.local import LocalRunner
from infra.provenance import source_state
from infra.settings import child_environment, load_settings
from infra.sim.faults import Rule
from infra.split_runner import SplitRunner
from tests.diamond_project import make_project, set_params, value_of
from tests.infra.ec2.desk import STAGE_REQUEST, STAGE_RHYTHM
from tests.infra.sim.lab import client

PATIENCE_SECONDS = 240.0


class Project:
    def __init__(self, root, on_ec2, on_metrics=None, on_end=lambda _run, _state: None):
        self.root = root
        self.lines = []
        self.metrics = []
        there = Ec2Runner(
            account_of(load_resources().account).model_copy(
                update={"wheelhouse": False}
            ),  # the environment is prebuilt
            lambda _stage: STAGE_REQUEST,
            lambda stage: stage_facts(root, read_yaml(root / "params.yaml"), stage),
            on_metrics or (lambda _stage, _facts, data: self.metrics.append(data)),
            STAGE_RHYTHM,
            on_end,
        )
        self.runner = SplitRunner(LocalRunner(), there, lambda stage: stage in on_ec2)

    def do(self, stage):
        environment = child_environment(load_settings(self.root), stage=stage)
        spec = JobSpec(stage=stage, root=self.root, environment=environment)
        return self.runner.wait(self.runner.submit(spec), self.lines.append).outcome


def results_of(cloud, run_id):
    found = client(cloud, "s3").get_object(Bucket=cloud.bucket, Key=f"runs/{run_id}/result.json")
    return [found["Body"].read()]


def lock(root):
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"]


@pytest.mark.slow
def test_a_stage_on_ec2_takes_its_inputs_from_here_and_gives_its_outputs_back(desk, tmp_path):
    project = Project(make_project(tmp_path / "p"), {"b"})
    before = len(desk.instances())
    assert [project.do(stage) for stage in ("a", "b", "c", "d")] == [Outcome.RAN] * 4
    assert value_of(project.root, "d") == [1, '[1, "[1]"]', '[1, "[1]"]']
    assert "hello from b" in project.lines
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=project.root, capture_output=True, text=True, check=True
    )
    assert json.loads(status.stdout) == {}
    assert len(desk.instances()) == before + 1
    assert desk.alive() == []

    made = run_record(
        project.root, "b", stage_facts(project.root, read_yaml(project.root / "params.yaml"), "b").fingerprint
    )
    assert made["machine"]["cpu"].startswith("EC2 ")
    assert 0 < made["cost_usd"] < 1
    assert made["commit"] == source_state(project.root).commit
    (result,) = (json.loads(text) for text in results_of(desk, made["ec2_run"]))
    assert made["seconds"] == result["seconds"] > 0  # of the node's run, not of whoever collects it
    assert [line.split()[-1] for line in made["attempts"]] == ["succeeded"]

    (project.root / "dvc.lock").unlink()  # the same work asked for again: its result is there, nothing is launched
    assert project.do("a") in (Outcome.RESTORED, Outcome.SKIPPED, Outcome.RAN)
    assert project.do("b") is Outcome.RAN
    assert len(desk.instances()) == before + 1
    assert {"a", "b"} <= set(lock(project.root))
    assert run_record(project.root, "b", made["fingerprint"]) == made  # nor charged again


@pytest.mark.slow
def test_a_stage_that_fails_on_ec2_is_told_as_one_that_fails_here_and_broken_tracking_fails_none(
    desk, tmp_path, caplog
):
    def broken(*_):
        raise OSError("no space left for tracking")

    project = Project(make_project(tmp_path / "p", a={"fail": True}), {"a"}, broken, broken)
    with pytest.raises(StageFailedError) as caught:
        project.do("a")
    assert any("a is broken: mend it" in line for line in caught.value.tail)
    assert not (project.root / "dvc.lock").exists()
    set_params(project.root)  # mended: other parameters, another run
    assert project.do("a") is Outcome.RAN
    assert any("not told of: OSError" in item.getMessage() for item in caplog.records)


@pytest.mark.slow
def test_the_commands_on_runs_tell_and_end_them(desk, tmp_path):
    project = Project(make_project(tmp_path / "p", a={"seconds": 900.0}), {"a"})
    environment = child_environment(load_settings(project.root), stage="a")
    job = project.runner.submit(JobSpec(stage="a", root=project.root, environment=environment))
    run_id = job[1].run.run_id
    client(desk, "s3").put_object(Bucket=desk.bucket, Key="runs/no-run/probe", Body=b"what is no run is not listed")
    desk.wait(
        lambda: any("hello from a" in line for line in jobs.job_logs(run_id, follow=False)),
        PATIENCE_SECONDS,
        "the first line",
    )
    shown = "\n".join(jobs.show_job(run_id))
    assert "instance    i-" in shown
    assert "heartbeat" in shown
    assert any(run_id in line and "watching" in line for line in jobs.list_jobs())
    assert "is controlled by" in jobs.cancel_job(run_id)[0]
    assert job[1].ended.wait(PATIENCE_SECONDS)
    assert desk.alive() == []
    assert any(run_id in line and "cancelled" in line for line in jobs.list_jobs())
    assert "USD" in jobs.job_costs()[-1]
    said: list[str] = []
    jobs.reap_instances(dry_run=True, say=said.append)
    assert said == ["nothing to reap"]


@pytest.mark.slow
def test_the_doctor_looks_at_the_account(desk):
    findings = examine_ec2()
    assert [item.what for item in findings if item.level == "fail"] == []
    assert any("conditional writes" in item.what for item in findings)
    regions = load_resources().regions()
    for region in regions:  # every one that a stage may use
        assert any(f"may do in {region} what a launch needs" in item.what for item in findings)
    desk.set_quota("L-417A185B", 0.0)
    assert any("L-417A185B" in item.what for item in examine_ec2())
    desk.set_quota("L-417A185B", 384.0)
    assert "takes conditional writes" in probe_bucket(Clients(), desk.bucket, "us-east-1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation", ["RunInstances", "TerminateInstances", "DescribeVolumes", "DeleteVolume", "DescribeInstances", "DescribeImages"]
)  # fmt: skip
def test_the_doctor_names_the_action_that_is_not_allowed(desk, operation):
    made = len(desk.instances())
    desk.fault(Rule(operation=operation, match={"region": "us-west-2"}, error="UnauthorizedOperation", status=403))
    failed = [item for item in examine_ec2() if item.level == "fail"]
    desk.clear()
    assert failed
    assert all(f"ec2:{operation}" in item.what and "in us-west-2" in item.what for item in failed)
    assert all("launcher.json" in item.remedy for item in failed)
    assert len(desk.instances()) == made


@pytest.mark.slow
def test_the_doctor_looks_into_security_groups(desk):
    ec2 = client(desk, "ec2")
    shut, open_ = (
        ec2.create_security_group(GroupName=name, Description="of a test")["GroupId"] for name in ("shut", "open")
    )
    ec2.authorize_security_group_ingress(GroupId=open_, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")

    def level(**groups):
        account = load_resources().account.model_copy(update={"security_groups": groups})
        return _security_group(Clients(), account, "us-east-1").level

    assert [level(**{"us-east-1": name}) for name in (shut, open_, "sg-none")] == ["ok", "fail", "fail"]
    assert level(**{"us-west-2": shut}) == "warn"
