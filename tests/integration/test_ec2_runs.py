"""Runs from their launch to their end on the simulated cloud: metrics, secrets, quotas, permissions, the reaper, the pace of a controller."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time

import pytest

from flows.jobs import show_job
from infra.ec2.follower import MetricJoin
from infra.ec2.reaper import reap
from infra.ec2.spec import Rhythm
from infra.sim.faults import Rule
from tests.infra.ec2.desk import ZONES, Desk, candidates, clients_of
from tests.infra.ec2.policy import not_allowed
from tests.infra.sim.lab import client, image_of

START_AND_END_CALLS = 60
LATER = 31.0  # seconds after which a controller's lease has expired


def test_a_run_comes_to_its_end_with_its_log_and_metrics(cloud):
    begun = len(cloud.journal())
    desk = Desk(cloud, 4, 0.1)
    state = desk.keep()
    assert (state.phase, state.outcome, state.attempt) == ("closed", "succeeded", 1)
    assert desk.output() == {"sum": 10}
    assert state.image == image_of(cloud.endpoint)
    assert [line for line in desk.lines if not line.startswith("[agent]")] == [
        "start at 0", *(f"step {n}" for n in range(1, 5)), "done",
    ]  # fmt: skip
    assert [json.loads(line)["step"] for data in desk.steps for line in data.splitlines()] == [1, 2, 3, 4]
    assert 0 < state.spent_usd < 0.05
    own = [call for call in cloud.journal(begun) if call["status"] < 400]
    assert not_allowed("node", [call for call in own if call["caller"].startswith("ASIA")]) == set()
    assert not_allowed("launcher", [call for call in own if call["caller"].startswith("AKIA")]) == set()


@pytest.mark.slow
def test_metrics_of_all_attempts_are_joined_by_whoever_adopts_the_run(cloud):
    """Steps 5 and 6 are measured twice: the checkpoint that the second attempt goes on from is older."""
    desk = Desk(cloud, 9, 0.02, "rare", gate=3, work={"checkpoint_signal": "SIGUSR1"})
    first = desk.make()
    first.take()
    while not first.state.beat_seq:
        first.look_and_act()
    desk.until(lambda: any("/metrics/" in key for key in desk.store.keys("attempt-1/")), "metrics")
    cloud.rebalance(desk.instances()[0])  # the one checkpoint of the first attempt
    desk.wait_commit(3)
    desk.let(6)

    def measured(attempt):
        keys = sorted(key for key in desk.store.keys(f"attempt-{attempt}/") if "/metrics/" in key)
        return [json.loads(line)["step"] for key in keys for line in desk.store.read(key).splitlines()]

    desk.until(lambda: measured(1)[-1:] == [6], "step 6 in the bucket")
    cloud.spot_kill(desk.instances()[0])  # and the controller dies, too
    desk.let(9)
    desk.ahead += LATER
    join, got = MetricJoin(), []
    second = desk.make(lambda data: got.append(join.new(data)))
    second.take()
    assert second.run().outcome == "succeeded"
    second.catch_up()
    assert set(measured(1)) & set(measured(2)) >= {5, 6}
    assert [json.loads(line)["step"] for line in b"".join(got).splitlines()] == list(range(1, 10))


SPELLS_ITS_LENGTH = "echo the key has ${#JUDGE_KEY} characters: $JUDGE_KEY; tr '\\0' ' ' < /proc/$$/cmdline; mkdir -p out; echo '{}' > out/result.json"


@pytest.mark.slow
def test_a_secret_reaches_the_stage_and_is_nowhere_else(cloud):
    """Not in user data, argv, log or any object of the bucket: only its name is."""
    secret = "correct horse battery staple"
    desk = Desk(cloud, work={"command": ["bash", "-c", SPELLS_ITS_LENGTH], "secrets": {"JUDGE_KEY": "longfuse/judge"}})
    client(cloud, "secretsmanager").create_secret(Name="longfuse/judge", SecretString=secret)
    assert desk.keep().outcome == "succeeded"
    assert any(f"the key has {len(secret)} characters" in line for line in desk.lines)
    assert any("bash -c" in line for line in desk.lines)  # its argv stands in the log, too
    (name,) = desk.instances()
    ec2, s3 = client(cloud, "ec2"), client(cloud, "s3")
    told = ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")["UserData"]["Value"]
    kept = {"user data": base64.b64decode(told), "console": cloud.console(name).encode()}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=cloud.bucket):
        for item in page["Contents"]:
            kept[item["Key"]] = s3.get_object(Bucket=cloud.bucket, Key=item["Key"])["Body"].read()
    assert b"longfuse/judge" in kept[f"{desk.spec.prefix}/attempt-1/boot-1.json"]
    assert [name for name, data in kept.items() if secret.encode() in data] == []


@pytest.mark.slow
def test_a_disk_that_nobody_uses_any_more_is_reaped(cloud):
    """Disks go with their instance; one that was left all the same, and is past its deadline, costs money."""
    ec2 = client(cloud, "ec2")

    def disk(run, deadline, bucket=cloud.bucket):
        tags = {"longfuse:run": run, "longfuse:bucket": bucket, "longfuse:deadline": str(deadline)}
        return ec2.create_volume(
            AvailabilityZone="us-east-1a", Size=8,
            TagSpecifications=[
                {"ResourceType": "volume", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            ],
        )["VolumeId"]  # fmt: skip

    late, early, others = disk("one", 1000), disk("two", 9000), disk("three", 1000, "another-bucket")
    arguments = (clients_of(cloud.endpoint), cloud.bucket, "us-east-1", ["us-east-1"])
    assert [item.resource_id for item in reap(*arguments, now=5000.0, dry_run=True)] == [late]
    assert [item.resource_id for item in reap(*arguments, now=5000.0)] == [late]
    left = {item["VolumeId"] for item in ec2.describe_volumes()["Volumes"]}
    assert {early, others} <= left
    assert late not in left
    for name in (early, others):
        ec2.delete_volume(VolumeId=name)


@pytest.mark.slow
def test_a_quota_that_is_used_up_is_asked_once_and_told(cloud, monkeypatch):
    """The other zones share it; on demand has a quota of its own."""
    cloud.fault(Rule(operation="RunInstances", match={"market": "spot"}, error="VcpuLimitExceeded", status=400))
    both = (*candidates(), *candidates(ZONES[:1], "on-demand"))
    desk = Desk(cloud, 2, 0.1, candidates=both, not_tried=("quota L-417A185B in us-east-1 is 0 vCPUs",))
    assert desk.keep().outcome == "succeeded"
    assert desk.launches() == [("us-east-1a", 400, "VcpuLimitExceeded"), ("us-east-1a", 200, None)]
    assert desk.controller.state.passed_over == (
        "attempt 1: spot-g5.xlarge-us-east-1a: VcpuLimitExceeded",
        *(
            f"attempt 1: spot-g5.xlarge-us-east-1{zone}: not asked for after VcpuLimitExceeded of spot-g5.xlarge-us-east-1a"
            for zone in "bc"
        ),
    )
    monkeypatch.setenv("LONGFUSE_BUCKET", cloud.bucket)
    shown = [line.removeprefix("not taken   ") for line in show_job(desk.run_id) if line.startswith("not taken")]
    assert tuple(shown) == (*desk.spec.not_tried, *desk.controller.state.passed_over)


@pytest.mark.slow
def test_a_missing_permission_stops_before_anything_is_launched(cloud):
    cloud.fault(Rule(operation="RunInstances", error="UnauthorizedOperation", status=403))
    desk = Desk(cloud, 2, 0.1)
    state = desk.keep()
    assert (state.outcome, len(desk.launches())) == ("refused", 1)
    assert "permission" in state.message


@pytest.mark.slow
def test_the_reaper_ends_what_is_past_its_deadline_and_nothing_else(cloud):
    late = Desk(cloud, 3, 0.1, gate=2, stopping={"hard_cap_seconds": 300.0})
    fine = Desk(cloud, 3, 0.1, gate=2)
    for desk in (late, fine):
        controller = desk.make()
        controller.take()
        while controller.state.phase != "watching":
            controller.look_and_act()  # and then the controller dies
    desk.until(lambda: late.alive()[0]["state"] == "running", "a running instance")
    cloud.freeze(late.instances()[0])  # its own timers do not go off
    deadline = float(late.alive()[0]["tags"]["longfuse:deadline"])

    def reaped(now):
        return [item.resource_id for item in reap(fine.clients, cloud.bucket, "us-east-1", ["us-east-1"], now=now)]

    assert reaped(deadline - 1.0) == []
    assert reaped(deadline + 1.0) == late.instances()
    fine.store.write_json("cancel", {})
    fine.ahead += LATER
    keeper = fine.make()
    keeper.take()
    assert keeper.run().outcome == "cancelled"
    late.until(lambda: not late.alive(), "its end")


@pytest.mark.slow
def test_a_controller_that_is_killed_for_real_is_replaced(cloud):
    desk = Desk(cloud, 3, 0.1, gate=2)
    script = (
        "import sys; from infra.ec2.aws import Clients; from infra.ec2.store import RunStore; "
        "from infra.ec2.controller import Controller; c = Clients(); "
        f"s = RunStore(c, {cloud.bucket!r}, 'us-east-1', {desk.run_id!r}); Controller(c, s, s.spec()).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    desk.until(lambda: any("/log/" in key for key in desk.store.keys("attempt-1/")), "a log")
    process.kill()
    process.wait()
    desk.let(3)
    desk.ahead += LATER
    controller = desk.make()
    controller.take()
    assert controller.run().outcome == "succeeded"
    assert len(desk.instances()) == 1


@pytest.mark.slow
def test_a_controller_makes_at_most_one_call_per_second_over_the_life_of_a_job(cloud):
    """With the periods that runs have. A start and an end cost a few calls more; a busy machine makes it fewer."""
    begun = len(cloud.journal())
    desk = Desk(cloud, 80, 0.5, rhythm=Rhythm(heartbeat_seconds=5.0))
    started = time.time()
    assert desk.keep().outcome == "succeeded"
    ended = time.time()
    calls = [call for call in cloud.journal(begun) if call["caller"].startswith("AKIA")]
    first = next(call["time"] for call in calls if call.get("key", "").endswith("/hb") and call["status"] == 200)
    last = next(call["time"] for call in calls if call.get("key", "").endswith("/exit.json") and call["status"] == 200)
    watched = [call for call in calls if first < call["time"] < last]
    assert last - first > 25.0
    assert len(watched) <= last - first
    assert len(calls) <= (ended - started) + START_AND_END_CALLS
