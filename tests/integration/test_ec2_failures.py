"""The failure matrix of one node, end to end: launcher, controller and agent for real, the journal of calls as the witness.

After every test, of every run in it, from the journal: exactly one RunInstances per candidate that was asked, no instance
alive at CLOSED, one result at most, the run closed once (tests/infra/ec2/witness.py).
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from infra.ec2 import launch
from infra.ec2.aws import AwsError
from infra.ec2.launch import Launcher
from infra.ec2.reaper import ReapError, reap
from infra.ec2.store import LeaseLostError
from infra.errors import InfraError
from infra.sim.faults import Rule
from tests.infra.ec2.desk import TOY, Desk

LATER = 31.0  # seconds after which a controller's lease has expired


def ice(zone: str) -> Rule:
    return Rule(operation="RunInstances", match={"az": zone}, error="InsufficientInstanceCapacity", status=500)


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
    assert desk.output() == {"sum": 465}
    desk.launched_once_for_each_of(2)
    assert (desk.exit(1)["reason"], desk.exit(1)["checkpoint"]) != ("interrupted", None)
    assert desk.results_written() == 1


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
    desk.launched_once_for_each_of(2)
    assert (desk.exit(1), desk.results_written()) == (None, 1)
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
    desk.launched_once_for_each_of(1)
    commits = cloud.calls("PutObject", key=f"{desk.spec.prefix}/ckpt/000001/COMMIT", status=200)
    assert (len(commits), desk.results_written()) == (1, 1)


@pytest.mark.slow
def test_row_9_a_hanging_kernel_is_found_by_its_silence(cloud):
    desk = Desk(cloud, 5, 0.02, gate=2).keep_beside()
    desk.wait_commit(2)
    cloud.freeze(desk.instances()[0])
    desk.let(5)
    desk.silence_is_noticed()
    assert desk.join().outcome == "succeeded"
    assert desk.reasons() == ["lost", "succeeded"]
    desk.launched_once_for_each_of(2)
    assert cloud.calls("TerminateInstances", instance_id=desk.instances()[0], status=200)
    assert desk.ended_by(desk.instances()[0]) == "Client.UserInitiatedShutdown"
    assert desk.results_written() == 1


NO_BLOB = {"key": "shared/code/none", "sha256": "0" * 64}
SET_UPS_THAT_FAIL = {
    "no agent": (
        Rule(service="s3", match={"key": "shared/agent/*", "caller": "ASIA*"}, error="NoSuchKey", status=404),
        {},
    ),
    "no storage": (Rule(service="s3", match={"caller": "ASIA*"}, error="AccessDenied", status=403), {}),
    "no code": (None, {"code": {"bundle": NO_BLOB, "commit": "0" * 40}}),
    "a bad wheel": (None, {"setup": [["sh", "-c", "echo this wheel is not for this platform >&2; exit 1"]]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SET_UPS_THAT_FAIL)
def test_row_10_a_bootstrap_that_fails_twice_in_the_same_way_ends_the_run(cloud, what):
    rule, work = SET_UPS_THAT_FAIL[what]
    if rule is not None:
        cloud.fault(rule)
    desk = Desk(cloud, 2, 0.1, work=work)
    state = desk.keep()
    assert (state.outcome, state.attempt) == ("infra", 2)  # and no third one
    desk.launched_once_for_each_of(2)
    for number, item in enumerate(cloud.instances(**{"longfuse:run": desk.run_id}), start=1):
        assert item["reason"] == "Client.InstanceInitiatedShutdown"  # nobody had to end it
        times = {name: moment for moment, name in item["timeline"]}
        assert times["terminated"] - times["running"] < 60.0
        if what == "no agent":
            assert "shared/agent" in desk.store.read(f"attempt-{number}/node-0/boot.log").decode()
        elif what == "no storage":  # nothing can be left there; the console has it
            assert "AccessDenied" in cloud.console(item["id"]) or "403" in cloud.console(item["id"])
        else:
            assert desk.exit(number)["reason"] == "infra"
    if what == "a bad wheel":
        assert "not for this platform" in state.message
    assert cloud.calls("TerminateInstances", instance_id=desk.instances()[0]) == []
    assert desk.results_written() == 0


@pytest.mark.slow
def test_row_11_a_failing_stage_is_not_repeated(cloud):
    desk = Desk(cloud, 2, 0.1, "fail", 3)
    state = desk.keep()
    assert (state.outcome, state.attempt) == ("failed", 1)
    desk.launched_once_for_each_of(1)
    assert "the toy fails" in desk.lines
    assert (desk.exit(1)["rc"], desk.exit(1)["reason"]) == (3, "failed")
    assert "the toy fails" in desk.exit(1)["tail"]
    assert desk.results_written() == 0


@pytest.mark.slow
def test_row_12_a_stage_that_hangs_and_daemonises_is_ended_at_its_deadline(cloud):
    desk = Desk(cloud, 2, 0.1, "hang", stopping={"runtime_seconds": 1.0, "grace_seconds": 0.5})
    assert desk.keep().outcome == "timed_out"
    desk.launched_once_for_each_of(1)
    assert (desk.exit(1)["rc"], desk.exit(1)["reason"]) == (137, "timed_out")  # SIGTERM was ignored
    assert desk.ended_by(desk.instances()[0]) == "Client.InstanceInitiatedShutdown"
    assert desk.results_written() == 0


@pytest.mark.slow
def test_row_13_memory_and_disk_have_reasons_of_their_own(cloud):
    desk = Desk(cloud, 3, 0.02, gate=2).keep_beside()
    desk.wait_line("step 2")
    cloud.out_of_memory(desk.instances()[0], "toy_stage.py")
    assert desk.join().outcome == "out_of_memory"
    assert desk.exit(1)["rc"] == 137
    assert desk.exit(1)["oom_kills"] >= 1
    cloud.behave(disk_mb=24)
    try:
        full = Desk(cloud, 3, 0.1, "full", work={"reserve_mb": 4})
        assert full.keep().outcome == "disk_full"
    finally:
        cloud.behave(disk_mb=0)
    assert full.exit(1)["reason"] == "disk_full"  # told in spite of the full disk
    for ended in (desk, full):
        ended.launched_once_for_each_of(1)
        assert ended.results_written() == 0


@pytest.mark.slow
def test_row_14_a_storage_that_refuses_for_a_while_loses_nothing(cloud):
    push = TOY.with_name("toy_push.py")
    words = f"exec {sys.executable} {push} {cloud.bucket} outputs/$LONGFUSE_RUN_ID out/result.json"
    desk = Desk(cloud, 3, 0.1, work={"push": ["bash", "-c", words]})
    outputs, results = (
        cloud.fault(
            Rule(
                service="s3", operation="PutObject", match={"key": key, "caller": "ASIA*"},
                error="SlowDown", status=503, count=7,
            )
        )
        for key in (f"outputs/{desk.run_id}", f"{desk.spec.prefix}/result.json")
    )  # fmt: skip
    assert desk.keep().outcome == "succeeded"
    desk.launched_once_for_each_of(1)
    assert (cloud.hits(outputs), cloud.hits(results)) == (7, 7)  # botocore gives up after three
    assert desk.results_written() == 1
    pushed = cloud.calls("PutObject", key=f"outputs/{desk.run_id}", status=200)
    written = cloud.calls("PutObject", key=f"{desk.spec.prefix}/result.json", status=200)
    assert [call["n"] for call in pushed] < [
        call["n"] for call in written
    ]  # the result tells of outputs that are there


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
    assert desk.output() == {"sum": 136}
    assert any(f"checkpoint {commits[-1].split('/')[1]} is damaged" in line for line in desk.lines)
    assert any(f"resuming from checkpoint {commits[-2].split('/')[1]}" in line for line in desk.lines)
    assert desk.results_written() == 1
    assert len(desk.instances()) == 2
    answered = [call for call in desk.run_instances() if call["status"] == 200]
    assert len(answered) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("code", "status"), [("RequestLimitExceeded", 503), ("InternalError", 500)])
def test_row_17_a_termination_that_is_refused_is_asked_for_until_it_works(cloud, caplog, code, status):
    desk = Desk(cloud, 3, 0.02, gate=2).keep_beside()
    number = cloud.fault(Rule(operation="TerminateInstances", error=code, status=status, count=3))
    desk.wait_line("step 2")
    (name,) = desk.instances()
    cloud.freeze(name)
    desk.store.write_json("cancel", {})
    desk.silence_is_noticed()
    state = desk.join()
    assert cloud.hits(number) == 3
    assert state.outcome == "cancelled"
    desk.launched_once_for_each_of(1)
    asked = cloud.calls("TerminateInstances", instance_id=name)
    assert [call["error"] for call in asked][:4] == [code, code, code, None]
    (closed,) = cloud.calls("PutObject", key=f"{desk.spec.prefix}/closed.json", status=200)
    assert closed["time"] > asked[3]["time"]  # never before
    alerts = [item for item in caplog.records if item.levelname == "ERROR" and name in item.getMessage()]
    assert len(alerts) == 3
    assert desk.results_written() == 0


@pytest.mark.slow
def test_row_17_the_reaper_comes_again_until_the_instance_is_gone(cloud):
    desk = Desk(cloud, 3, 0.02, gate=2)
    controller = desk.make()
    controller.take()
    while not controller.state.beat_seq:
        controller.look_and_act()  # and then the controller dies
    (name,) = desk.instances()
    cloud.freeze(name)  # nor do its own timers go off
    number = cloud.fault(Rule(operation="TerminateInstances", error="UnauthorizedOperation", status=403))
    late = float(desk.alive()[0]["tags"]["longfuse:deadline"]) + 1.0
    for _ in range(2):
        with pytest.raises(ReapError, match="may still cost money"):
            reap(desk.clients, cloud.bucket, "us-east-1", ["us-east-1"], now=late)
        assert desk.alive()
    assert desk.store.read("closed.json") is None
    cloud.clear(number)
    assert [item.resource_id for item in reap(desk.clients, cloud.bucket, "us-east-1", ["us-east-1"], now=late)] == [
        name
    ]
    desk.until(lambda: not desk.alive(), "its end")
    desk.let(3)
    desk.ahead += LATER
    second = desk.make()
    second.take()  # whoever takes the run over goes on with another attempt, and closes it
    assert second.run().outcome == "succeeded"
    desk.launched_once_for_each_of(2)
    assert desk.results_written() == 1


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
def test_row_20_what_the_budget_does_not_bear_is_refused_before_a_launch(cloud):
    poor = Desk(cloud, 2, 0.1, budget_usd=0.01)
    assert poor.keep().outcome == "budget"
    assert (poor.launches(), poor.instances(), poor.results_written()) == ([], [], 0)


@pytest.mark.slow
@pytest.mark.parametrize("back", ["while it runs", "after its end"])
def test_row_20_a_controller_without_credentials_stops_and_another_one_adopts_the_run(cloud, back):
    desk = Desk(cloud, 3, 0.1, gate=2)
    first = desk.make()
    first.take()
    while not first.state.beat_seq:
        first.look_and_act()
    number = cloud.fault(Rule(service="*", match={"caller": "AKIA*"}, error="ExpiredToken", status=400))
    with pytest.raises(AwsError, match=r"log in again.*longfuse jobs adopt"):
        first.look_and_act()
    expired = len(cloud.journal())
    desk.until(lambda: beats_since(cloud, desk, expired) >= 2, "heartbeats: the node keeps its role")
    if back == "after its end":
        desk.let(3)
        desk.until(lambda: not desk.alive(), "its end, by itself")
        assert desk.ended_by(desk.instances()[0]) == "Client.InstanceInitiatedShutdown"
    cloud.clear(number)
    desk.let(3)
    desk.ahead += LATER
    second = desk.make()
    second.take()
    assert second.run().outcome == "succeeded"
    desk.launched_once_for_each_of(1)
    assert desk.results_written() == 1


def beats_since(cloud, desk, entry):
    key = f"{desk.spec.prefix}/attempt-1/node-0/hb"
    return sum(call.get("key") == key and call["status"] == 200 for call in cloud.journal(entry))
