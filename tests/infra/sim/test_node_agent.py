"""What an instance does by itself: rows of the failure matrix that need no controller."""

import json
import sys
import time

import pytest

from infra.sim.cloud import SimulatedCloud
from infra.sim.faults import Rule
from tests.infra.sim.lab import TOY, Run, client
from tests.infra.sim.permission import need_namespaces


@pytest.mark.slow
def test_a_stage_runs_and_leaves_one_result_and_no_instance(quiet):
    started = time.time()
    run = Run(quiet).launch(3, 0.1)
    run.wait_log("start at 0")
    first_line = time.time() - started
    ended = run.wait_end()
    assert (ended["rc"], ended["reason"]) == (0, "succeeded")
    assert json.loads(run.read_json("result.json")["files"]["out/result.json"]) == {"sum": 6}
    assert [line for line in run.log().splitlines() if not line.startswith("[agent]")] == [
        "start at 0",
        "step 1",
        "step 2",
        "step 3",
        "done",
    ]
    assert first_line < 15
    assert [
        json.loads(line)["step"] for key in run.listed(f"{run.place}/metrics/") for line in run.read(key).splitlines()
    ] == [1, 2, 3]
    assert run.facts()["reason"] == "Client.InstanceInitiatedShutdown"


@pytest.mark.slow
def test_a_spot_notice_saves_a_checkpoint_and_the_next_attempt_goes_on_from_it(quiet):
    run = Run(quiet).launch(40, 0.1)
    run.wait_log("step 3")
    quiet.spot_notice(run.instance, seconds=20)
    ended = run.wait_end()
    assert ended["reason"] == "interrupted"
    reached = int(run.log().rpartition("stopped at ")[2].split()[0])
    assert run.read_json("result.json") is None
    run.launch(reached + 2, 0.05)
    assert run.wait_end()["reason"] == "succeeded"
    assert f"start at {reached}\n" in run.log()


@pytest.mark.slow
def test_a_kill_without_notice_loses_only_what_was_not_committed(quiet):
    run = Run(quiet).launch(60, 0.1)
    run.wait_log("checkpoint 000002 is in the bucket")
    quiet.spot_kill(run.instance)
    assert run.wait_end() is None
    assert run.facts()["reason"] == "Server.SpotInstanceTermination"
    run.launch(8, 0.05)
    assert run.wait_end()["reason"] == "succeeded"
    assert int(run.log().partition("start at ")[2].split()[0]) >= 1
    keys = [key for key in run.listed() if "/metrics/" in key]
    steps = [json.loads(line)["step"] for key in sorted(keys) for line in run.read(key).splitlines()]
    assert set(steps) == set(range(1, 9)) | set(range(1, max(steps) + 1))  # none is missing


@pytest.mark.slow
def test_a_rebalance_recommendation_brings_a_checkpoint_and_the_stage_goes_on(quiet):
    run = Run(quiet).launch(12, 0.3, "rare", checkpoint_signal="SIGUSR1")
    run.wait_log("step 1")
    quiet.rebalance(run.instance)
    run.wait_log("checkpoint 0000")
    assert quiet.alive(run=run.id)
    assert run.wait_end()["reason"] == "succeeded"


@pytest.mark.slow
def test_a_failing_stage_is_told_with_its_last_lines(quiet):
    ended = Run(quiet).launch(3, 0.1, "fail", 3).wait_end()
    assert (ended["rc"], ended["reason"]) == (3, "failed")
    assert ended["tail"][-1] == "the toy fails"


def test_an_instance_whose_bootstrap_fails_leaves_boot_log_and_ends(quiet):
    started = time.time()
    run = Run(quiet).launch(3, 0.1, agent_key="nowhere/agent.pyz")
    assert run.wait_end() is None
    assert time.time() - started < 60
    assert "nowhere/agent.pyz" in run.read(f"{run.place}/boot.log")
    assert "exit code 72" in run.read(f"{run.place}/boot.log")


@pytest.mark.slow
def test_a_stage_that_hangs_is_killed_at_its_deadline(quiet):
    run = Run(quiet).launch(3, 0.1, "hang", runtime_seconds=1.5, grace_seconds=0.5)
    ended = run.wait_end()
    assert (ended["rc"], ended["reason"]) == (137, "timed_out")


@pytest.mark.slow
def test_without_an_agent_the_dead_man_timer_ends_the_instance(quiet):
    run = Run(quiet).launch(3, 0.1, "hang", ttl_minutes=2, stall_seconds=0.0)  # nothing moves: not armed again
    run.wait_log("start at 0")
    assert run.wait_end() is None
    assert run.facts()["reason"] == "Client.InstanceInitiatedShutdown"


@pytest.mark.slow
def test_the_dead_man_timer_is_armed_anew_while_there_is_progress(quiet):
    run = Run(quiet).launch(40, 0.3, ttl_minutes=4)  # 12 s of work, a timer of 8 s
    assert run.wait_end(30)["reason"] == "succeeded"


@pytest.mark.slow
def test_a_memory_kill_has_a_reason_of_its_own(quiet):
    run = Run(quiet).launch(100, 0.1)
    run.wait_log("step 2")
    assert quiet.out_of_memory(run.instance, "toy_stage.py") is not None
    ended = run.wait_end()
    assert (ended["rc"], ended["reason"]) == (137, "out_of_memory")


@pytest.mark.slow
def test_slow_down_of_the_storage_loses_nothing(quiet):
    run = Run(quiet)
    number = quiet.fault(
        Rule(
            service="s3",
            operation="PutObject",
            match={"key": f"{run.prefix}/*result.json"},
            error="SlowDown",
            status=503,
            count=7,
        )
    )
    assert run.launch(3, 0.1).wait_end(30)["reason"] == "succeeded"
    assert quiet.hits(number) == 7
    assert run.read_json("result.json")["rc"] == 0


@pytest.mark.slow
def test_a_checkpoint_that_is_torn_or_not_committed_is_never_used(quiet):
    run = Run(quiet).launch(60, 0.1)
    run.wait_log("checkpoint 000002 is in the bucket")
    quiet.spot_kill(run.instance)
    run.wait_end()
    commits = sorted(key for key in run.listed("ckpt/") if key.endswith("COMMIT"))
    newest = run.read_json(commits[-1])
    spoiled = next(facts["key"] for name, facts in newest["files"].items() if name.endswith("state.json"))
    run.put(spoiled, b'{"step": 59, "sum": 0}')
    run.put("ckpt/000099/checkpoint-000059/state.json", b'{"step": 59, "sum": 0}')
    before = run.read_json(commits[-2])["files"] if len(commits) > 1 else {}
    good = [int(name.split("/")[0].rpartition("-")[2]) for name in before if name.endswith("state.json")]
    run.launch(12, 0.02)
    assert run.wait_end()["reason"] == "succeeded"
    assert f"start at {max(good, default=0)}\n" in run.log()


@pytest.mark.slow
def test_a_superseded_attempt_writes_no_result(quiet):
    run = Run(quiet).launch(30, 0.1)
    run.wait_log("step 1")
    run.put("epoch", b'{"epoch": 7}')
    assert run.wait_end()["reason"] == "superseded"
    assert run.read_json("result.json") is None


@pytest.mark.slow
def test_an_order_to_stop_ends_the_stage_and_keeps_its_checkpoint(quiet):
    run = Run(quiet).launch(60, 0.1)
    run.wait_log("step 2")
    run.put("attempt-1/poison", b'{"reason": "cancelled"}')
    ended = run.wait_end()
    assert (ended["reason"], ended["checkpoint"] is not None) == ("cancelled", True)


@pytest.mark.slow
def test_secrets_do_not_reach_the_log(quiet):
    manager = client(quiet, "secretsmanager")
    run = Run(quiet)
    manager.create_secret(Name=f"key-{run.id}", SecretString="correct horse battery")
    run.launch(
        command=["bash", "-c", "echo $JUDGE_KEY; mkdir -p out; echo '{}' > out/result.json"],
        secrets={"JUDGE_KEY": f"key-{run.id}"},
    )
    assert run.wait_end()["reason"] == "succeeded"
    assert "correct horse battery" not in run.log()
    assert "[removed]" in run.log()


@pytest.mark.slow
def test_a_full_disk_has_a_reason_of_its_own_and_is_reported(tmp_path):
    need_namespaces()
    with SimulatedCloud(tmp_path / "cloud", disk_mb=24, pending_seconds=0.1, power_off_seconds=0.5) as cloud:
        ended = Run(cloud).launch(3, 0.1, "full", reserve_mb=4).wait_end()
        assert ended["reason"] == "disk_full"
        assert any("No space left on device" in line for line in ended["tail"])


@pytest.mark.slow
def test_outputs_stay_until_the_storage_takes_them(quiet):
    run = Run(quiet)
    number = quiet.fault(
        Rule(
            service="s3",
            operation="PutObject",
            match={"key": f"outputs/{run.id}"},
            error="SlowDown",
            status=503,
            count=5,
        )
    )
    push = [sys.executable, str(TOY.with_name("toy_push.py")), quiet.bucket, f"outputs/{run.id}", "out/result.json"]
    assert run.launch(3, 0.1, push=push).wait_end(40)["reason"] == "succeeded"
    assert quiet.hits(number) == 5
    assert run.s3.get_object(Bucket=quiet.bucket, Key=f"outputs/{run.id}")["Body"].read() == b'{"sum": 6}'


@pytest.mark.slow
def test_a_frozen_instance_is_silent_until_somebody_ends_it(quiet):
    run = Run(quiet).launch(200, 0.1, ttl_minutes=3)
    run.wait_log("step 2")
    quiet.freeze(run.instance)
    time.sleep(0.5)  # a request that was under way
    beat = run.read(f"{run.place}/hb")
    time.sleep(8.0)  # longer than its timer of 6 s: a hanging kernel has no timers
    assert run.read(f"{run.place}/hb") == beat
    assert run.state() == "running"
    client(quiet, "ec2").terminate_instances(InstanceIds=[run.instance])
    assert run.wait_end() is None


@pytest.mark.slow
def test_a_stop_while_outputs_are_pushed_is_heard(quiet):
    run = Run(quiet).launch(2, 0.1, push=["sleep", "600"])
    run.wait_log("phase uploading")
    quiet.spot_notice(run.instance, seconds=20)
    assert run.wait_end()["reason"] == "interrupted"
    assert run.read("result.json") is None


@pytest.mark.slow
def test_a_machine_that_is_not_what_was_asked_for_is_not_the_stages_fault(quiet):
    ended = Run(quiet).launch(3, 0.1, gpus=8).wait_end()
    assert (ended["reason"], ended["rc"]) == ("preflight", None)
    assert "0 GPUs are usable, 8 are needed" in ended["message"]


@pytest.mark.slow
def test_code_with_a_wrong_hash_is_never_run(quiet):
    run = Run(quiet)
    run.put("code.bundle", b"not what was sent")
    code = {"bundle": {"key": f"{run.prefix}/code.bundle", "sha256": "0" * 64}, "commit": "0" * 40}
    ended = run.launch(3, 0.1, code=code).wait_end()
    assert (ended["reason"], ended["phase"]) == ("infra", "setup")
    assert "sha256" in ended["message"]
