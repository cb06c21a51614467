"""The failure matrix of one node, end to end: launcher, controller and agent for real, the journal of calls as the witness.

After every test: no instance of the run is alive, at most one result was written, the run is closed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from infra.ec2 import launch
from infra.ec2.aws import AwsError
from infra.ec2.launch import Launcher
from infra.ec2.reaper import reap
from infra.ec2.store import LeaseLostError
from infra.errors import InfraError
from infra.sim.faults import Rule
from tests.infra.ec2.desk import Desk
from tests.infra.ec2.policy import not_allowed

LATER = 31.0  # seconds after which a controller's lease has expired


@pytest.fixture
def cloud(simulated, monkeypatch):
    for name, value in simulated.environment.items():
        monkeypatch.setenv(name, value)
    simulated.clear()
    before = {item["id"] for item in simulated.instances()}
    yield simulated
    simulated.clear()
    assert simulated.alive() == []
    made = [item for item in simulated.instances() if item["id"] not in before]
    for run_id in {item["tags"].get("longfuse:run") for item in made} - {None}:
        written = simulated.calls("PutObject", key=f"runs/{run_id}/result.json", status=200, fault=None)
        assert len(written) <= 1


def result(desk: Desk) -> dict:
    return json.loads(desk.store.read_json("result.json")["files"]["out/result.json"])


def ice(zone: str) -> Rule:
    return Rule(operation="RunInstances", match={"az": zone}, error="InsufficientInstanceCapacity", status=500)


def test_a_run_comes_to_its_end_with_its_log_and_metrics(cloud):
    begun = len(cloud.journal())
    desk = Desk(cloud, 4, 0.1)
    state = desk.keep()
    assert (state.phase, state.outcome, state.attempt) == ("closed", "succeeded", 1)
    assert result(desk) == {"sum": 10}
    assert [line for line in desk.lines if not line.startswith("[agent]")] == [
        "start at 0", *(f"step {n}" for n in range(1, 5)), "done",
    ]  # fmt: skip
    assert [json.loads(line)["step"] for data in desk.steps for line in data.splitlines()] == [1, 2, 3, 4]
    assert 0 < state.spent_usd < 0.05
    own = [call for call in cloud.journal(begun) if call["status"] < 400]
    assert not_allowed("node", [call for call in own if call["caller"].startswith("ASIA")]) == set()
    assert not_allowed("launcher", [call for call in own if call["caller"].startswith("AKIA")]) == set()


def test_row_1_missing_capacity_moves_on_with_one_call_per_candidate(cloud):
    cloud.fault(ice("us-east-1a"))
    cloud.fault(ice("us-east-1b"))
    desk = Desk(cloud, 2, 0.1)
    assert desk.keep().outcome == "succeeded"
    code = "InsufficientInstanceCapacity"
    assert desk.launches() == [("us-east-1a", 500, code), ("us-east-1b", 500, code), ("us-east-1c", 200, None)]


@pytest.mark.slow
def test_row_2_no_capacity_anywhere_ends_without_an_instance(cloud):
    for zone in "abc":
        cloud.fault(ice(f"us-east-1{zone}"))
    desk = Desk(cloud, 2, 0.1).keep_beside()
    desk.pauses_pass(lambda: not desk.thread.is_alive())  # each a quarter of the search, and a round after it
    state = desk.join()
    assert (state.outcome, state.spent_usd, desk.instances()) == ("no_capacity", 0.0, [])
    assert 6 <= len(desk.launches()) <= 24
    assert len(set(Counter(zone for zone, _, _ in desk.launches()).values())) == 1  # rounds are whole


@pytest.mark.slow
def test_row_3_a_launch_whose_answer_is_lost_is_one_instance(cloud):
    cloud.fault(Rule(operation="RunInstances", effect="lose_response", count=2))
    desk = Desk(cloud, 2, 0.1, gate=1).keep_beside()
    desk.wait_line("step 1")
    desk.let(2)
    assert desk.join().outcome == "succeeded"
    assert [error for _, _, error in desk.launches()] == ["response lost", "response lost", None]
    assert len(desk.instances()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("listed", [True, False])
def test_row_3_a_stage_that_is_over_before_its_launch_is_answered_is_not_launched_again(cloud, monkeypatch, listed):
    cloud.fault(Rule(operation="RunInstances", effect="lose_response", count=1))
    desk = Desk(cloud, 2, 0.1)
    monkeypatch.setattr(
        Launcher, "_wait", lambda *_: desk.until(lambda: desk.instances() and not desk.alive(), "the end of the stage")
    )
    if not listed:  # an hour after it has ended
        monkeypatch.setattr(launch, "find_by_token", lambda *_: ())
    state = desk.keep()
    assert (state.outcome, state.attempt, desk.results_written()) == ("succeeded", 1, 1)
    assert [error for _, _, error in desk.launches()] == ["response lost", "IdempotentInstanceTerminated"]
    assert len(desk.instances()) == 1
    assert state.spent_usd > 0
    assert "done" in desk.lines


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the call", "after the call", "while it runs"])
def test_row_4_another_controller_takes_over(cloud, moment, monkeypatch):
    desk = Desk(cloud, 3, 0.1, gate=2)
    first = desk.make()
    first.take()

    def die(*_):
        raise SystemExit(9)

    def until_it_runs():
        while not first.state.beat_seq:
            first.look_and_act()
        die()

    with monkeypatch.context() as patched:
        if moment == "before the call":
            patched.setattr(first._launcher, "_send", die)
        elif moment == "after the call":
            send = first._launcher._send
            patched.setattr(first._launcher, "_send", lambda *words: (send(*words), die()))
        with pytest.raises(SystemExit):
            until_it_runs()
    desk.let(3)
    desk.ahead += LATER
    second = desk.make()
    second.take()
    assert second.run().outcome == "succeeded"
    assert len(desk.instances()) == 1
    assert len({call["client_token"] for call in desk.run_instances()}) == 1


@pytest.mark.slow
def test_row_5_of_two_controllers_one_works_and_a_stale_one_is_refused(cloud):
    desk = Desk(cloud, 3, 0.1, gate=2)
    first, second = desk.make(), desk.make()
    first.take()
    with pytest.raises(LeaseLostError, match="is controlled by"):
        second.take()
    first.look_and_act()
    desk.ahead += LATER  # the first one sleeps through the end of its lease
    second.take()
    second.look_and_act()
    with pytest.raises(LeaseLostError):
        first.look_and_act()
    desk.let(3)
    assert second.run().outcome == "succeeded"
    assert len(desk.instances()) == 1


@pytest.mark.slow
def test_row_6_a_spot_notice_moves_the_run_to_another_instance(cloud):
    desk = Desk(cloud, 30, 0.02, gate=4).keep_beside()
    desk.wait_line("step 4")
    cloud.spot_notice(desk.instances()[0], seconds=120)
    desk.wait_line("stopped at ")
    desk.let(30)
    assert desk.join().outcome == "succeeded"
    assert desk.reasons() == ["interrupted", "succeeded"]
    reached = next(line for line in desk.lines if line.startswith("stopped at ")).split()[-1]
    assert f"start at {reached}" in desk.lines
    assert result(desk) == {"sum": 465}


@pytest.mark.slow
def test_row_7_after_a_kill_without_notice_the_run_goes_on_from_its_last_commit(cloud):
    desk = Desk(cloud, 12, 0.02, gate=3).keep_beside()
    desk.wait_commit(3)
    cloud.spot_kill(desk.instances()[0])
    desk.let(12)
    assert desk.join().outcome == "succeeded"
    assert desk.reasons() == ["lost", "succeeded"]
    told = {item["id"]: item["reason"] for item in cloud.instances()}
    assert told[desk.instances()[0]] == "Server.SpotInstanceTermination"
    starts = [int(line.split()[-1]) for line in desk.lines if line.startswith("start at")]
    assert starts[-1] >= 3


@pytest.mark.slow
def test_row_8_a_rebalance_recommendation_brings_a_checkpoint(cloud):
    desk = Desk(cloud, 3, 0.1, "rare", gate=1, work={"checkpoint_signal": "SIGUSR1"}).keep_beside()
    desk.wait_line("step 1")
    cloud.rebalance(desk.instances()[0])
    desk.wait_commit(1)
    desk.let(3)
    assert desk.join().outcome == "succeeded"
    assert desk.reasons() == ["succeeded"]


@pytest.mark.slow
def test_row_9_a_hanging_kernel_is_found_by_its_silence(cloud):
    desk = Desk(cloud, 5, 0.02, gate=2).keep_beside()
    desk.wait_commit(2)
    cloud.freeze(desk.instances()[0])
    desk.let(5)
    desk.silence_is_noticed()
    assert desk.join().outcome == "succeeded"
    assert desk.reasons() == ["lost", "succeeded"]
    assert cloud.calls("TerminateInstances", instance_id=desk.instances()[0])


@pytest.mark.slow
def test_row_10_a_bootstrap_that_fails_twice_in_the_same_way_ends_the_run(cloud):
    cloud.fault(
        Rule(
            service="s3",
            operation="*Object",
            match={"key": "shared/agent/*", "caller": "ASIA*"},
            error="NoSuchKey",
            status=404,
        )
    )
    desk = Desk(cloud, 2, 0.1)
    state = desk.keep()
    assert (state.outcome, state.attempt) == ("infra", 2)
    assert "shared/agent" in desk.store.read("attempt-1/node-0/boot.log").decode()


@pytest.mark.slow
def test_row_11_a_failing_stage_is_not_repeated(cloud):
    desk = Desk(cloud, 2, 0.1, "fail", 3)
    state = desk.keep()
    assert (state.outcome, state.attempt) == ("failed", 1)
    assert "the toy fails" in desk.lines
    assert desk.store.read_json("attempt-1/node-0/exit.json")["rc"] == 3


@pytest.mark.slow
def test_row_12_a_stage_that_hangs_and_daemonises_is_ended_at_its_deadline(cloud):
    desk = Desk(cloud, 2, 0.1, "hang", stopping={"runtime_seconds": 1.0, "grace_seconds": 0.5})
    assert desk.keep().outcome == "timed_out"
    assert desk.store.read_json("attempt-1/node-0/exit.json")["rc"] == 137


@pytest.mark.slow
def test_row_13_memory_and_disk_have_reasons_of_their_own(cloud):
    desk = Desk(cloud, 3, 0.02, gate=2).keep_beside()
    desk.wait_line("step 2")
    cloud.out_of_memory(desk.instances()[0], "toy_stage.py")
    assert desk.join().outcome == "out_of_memory"
    cloud.behave(disk_mb=24)
    try:
        assert Desk(cloud, 3, 0.1, "full", work={"reserve_mb": 4}).keep().outcome == "disk_full"
    finally:
        cloud.behave(disk_mb=0)


@pytest.mark.slow
def test_row_14_a_storage_that_refuses_for_a_while_loses_nothing(cloud):
    desk = Desk(cloud, 3, 0.1)
    number = cloud.fault(
        Rule(
            service="s3", operation="PutObject", match={"key": f"{desk.spec.prefix}/*result.json", "caller": "ASIA*"},
            error="SlowDown", status=503, count=4,
        )
    )  # fmt: skip
    assert desk.keep().outcome == "succeeded"
    assert (cloud.hits(number), desk.results_written()) == (4, 1)


@pytest.mark.slow
def test_row_15_what_was_torn_is_not_resumed_from(cloud):
    desk = Desk(cloud, 16, 0.02, gate=1).keep_beside()
    for step in (1, 2):
        desk.let(step)
        desk.wait_commit(step)
    for zone in "abc":  # nothing starts while we spoil what is there
        cloud.fault(ice(f"us-east-1{zone}"))
    cloud.spot_kill(desk.instances()[0])
    desk.until(lambda: not desk.alive(), "its end")
    commits = sorted(key for key in desk.store.keys("ckpt/") if key.endswith("COMMIT"))
    newest = desk.store.read_json(commits[-1])
    spoilt = next(facts["key"] for name, facts in newest["files"].items() if name.endswith("state.json"))
    whole = desk.store.read(spoilt)
    desk.store.write(spoilt, whole[: len(whole) // 2])
    desk.store.write("ckpt/000099/checkpoint-000015/state.json", b'{"step": 15, "sum": 0}')  # its COMMIT never came
    cloud.clear()
    desk.let(16)
    desk.pauses_pass(desk.alive)
    assert desk.join().outcome == "succeeded"
    assert result(desk) == {"sum": 136}
    assert any(f"checkpoint {commits[-1].split('/')[1]} is damaged" in line for line in desk.lines)
    assert any(f"resuming from checkpoint {commits[-2].split('/')[1]}" in line for line in desk.lines)


@pytest.mark.slow
def test_row_17_a_termination_that_is_refused_is_asked_for_until_it_works(cloud):
    desk = Desk(cloud, 3, 0.02, gate=2).keep_beside()
    number = cloud.fault(Rule(operation="TerminateInstances", error="RequestLimitExceeded", status=503, count=3))
    desk.wait_line("step 2")
    cloud.freeze(desk.instances()[0])
    desk.store.write_json("cancel", {})
    desk.silence_is_noticed()
    state = desk.join()
    assert cloud.hits(number) == 3
    assert state.outcome == "cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at once", "while launching", "while booting", "while running"])
def test_row_19_a_cancelled_run_leaves_nothing_but_its_checkpoint(cloud, moment):
    desk = Desk(cloud, 3, 0.02, gate=2)
    if moment == "at once":
        desk.store.write_json("cancel", {})
    if moment == "while launching":
        cloud.fault(Rule(operation="RunInstances", effect="lose_response", count=4))
    desk.keep_beside()
    if moment == "while launching":
        desk.until(lambda: len(desk.launches()) >= 2, "two calls")
    if moment == "while booting":
        desk.until(desk.alive, "an instance")
    if moment == "while running":
        desk.wait_commit(2)
    desk.store.write_json("cancel", {})
    assert desk.join().outcome == "cancelled"
    assert desk.alive() == []
    if moment == "while running":
        assert any(key.endswith("COMMIT") for key in desk.store.keys("ckpt/"))
    with pytest.raises(InfraError):
        desk.store.begin(desk.spec.model_copy(update={"stage": "other"}))


@pytest.mark.slow
def test_row_20_budget_and_credentials(cloud):
    poor = Desk(cloud, 2, 0.1, budget_usd=0.01)
    assert (poor.keep().outcome, poor.launches()) == ("budget", [])

    desk = Desk(cloud, 3, 0.1, gate=2)
    first = desk.make()
    first.take()
    while not first.state.beat_seq:
        first.look_and_act()
    number = cloud.fault(Rule(service="*", match={"caller": "AKIA*"}, error="ExpiredToken", status=400))
    with pytest.raises(AwsError, match="log in again"):
        first.look_and_act()
    cloud.clear(number)
    desk.let(3)
    desk.ahead += LATER
    second = desk.make()
    second.take()
    assert second.run().outcome == "succeeded"
    assert len(desk.instances()) == 1


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
        return [item.instance_id for item in reap(fine.clients, cloud.bucket, "us-east-1", ["us-east-1"], now=now)]

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
