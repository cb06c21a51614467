"""Fifty jobs, sixteen at a time, on simulated instances that are taken away, freeze and break, with a storage that stutters.

Every fault is drawn from a seed. Whatever happens: every job has exactly one result, no instance is left, and next to no
instance time is spent on nothing.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.ec2.aws import Clients
from infra.ec2.spec import Rhythm
from infra.sim.cloud import SimulatedCloud, SimulatorError
from infra.sim.faults import Rule
from tests.infra.ec2.desk import TOY, Desk
from tests.infra.sim.lab import client
from tests.infra.sim.permission import need_namespaces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SEED, JOBS, AT_ONCE = 7, 50, 16
STEPS, STEP_SECONDS = 20, 0.25
EVENTS = ["kill"] * 10 + ["notice"] * 10 + ["freeze"] * 2 + ["break"] * 4 + ["rebalance"] * 4
RULES = [
    Rule(operation="RunInstances", match={"az": "us-east-1a"}, error="InsufficientInstanceCapacity", probability=0.3),
    Rule(operation="RunInstances", effect="lose_response", probability=0.1),
    Rule(operation="RunInstances", effect="lose_request", probability=0.05),
    Rule(service="s3", operation="PutObject", error="SlowDown", status=503, probability=0.02),
    Rule(service="s3", operation="PutObject", effect="lose_response", probability=0.01),
    Rule(service="s3", operation="GetObject", error="InternalError", status=500, probability=0.01),
]


RHYTHM = Rhythm(
    poll_seconds=1.5, heartbeat_seconds=2.0, log_seconds=3.0, metadata_seconds=1.0, checkpoint_seconds=2.0
)  # fmt: skip
LIMITS = {"silence_seconds": 60.0, "boot_seconds": 150.0, "pending_seconds": 120.0, "max_attempts": 12}


def job(cloud: SimulatedCloud, clients: Clients, desks: dict[str, Desk]) -> Desk:
    desk = Desk(cloud, STEPS, STEP_SECONDS, clients=clients, rhythm=RHYTHM, stopping=LIMITS, work=work(cloud))
    desks[desk.run_id] = desk
    desk.keep()
    return desk


def work(cloud: SimulatedCloud) -> dict:
    """Outputs are pushed under the name of their run, as a variable tells the command."""
    push = (
        f"exec {sys.executable} {TOY.with_name('toy_push.py')} {cloud.bucket} outputs/$LONGFUSE_RUN_ID out/result.json"
    )
    return {"push": ["bash", "-c", push]}


def disturb(cloud: SimulatedCloud, draw: random.Random, done: threading.Event, desks: dict[str, Desk]) -> None:
    """Let an event befall a random instance every second or so. For a frozen one the silence passes at once."""
    events = draw.sample(EVENTS, len(EVENTS))
    while events and not done.wait(draw.uniform(0.5, 1.5)):
        running = {item["id"]: item for item in cloud.alive() if item["state"] == "running"}
        if not running:
            continue
        victim, event = draw.choice(sorted(running)), events.pop()
        try:
            if event == "kill":
                cloud.spot_kill(victim)
            elif event == "notice":
                cloud.spot_notice(victim, seconds=8.0)
            elif event == "freeze":
                cloud.freeze(victim)
                desks[running[victim]["tags"]["longfuse:run"]].silence_is_noticed()
            elif event == "break":
                cloud.hardware_death(victim)
            else:
                cloud.rebalance(victim)
        except SimulatorError:  # it ended just now
            events.append(event)


def life(item: dict) -> float:
    times = [moment for moment, _ in item["timeline"]]
    return times[-1] - times[0]


def idle_after_exit(item: dict, desk: Desk, attempt: int) -> float:
    """Seconds that an instance lived on after it had reported its end."""
    ended = desk.store.read_json(f"attempt-{attempt}/node-0/exit.json")
    if ended is None or ended["instance_id"] != item["id"]:
        return 0.0
    return item["timeline"][-1][0] - ended["finished"]


def test_fifty_jobs_with_random_faults_leak_nothing_and_lose_nothing(tmp_path: Path, monkeypatch) -> None:
    need_namespaces()
    started = time.monotonic()
    with SimulatedCloud(tmp_path / "cloud", seed=SEED, pending_seconds=0.2, power_off_seconds=0.3) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        for rule in RULES:
            cloud.fault(rule)
        clients, done, made = Clients(), threading.Event(), dict[str, Desk]()
        chaos = threading.Thread(target=disturb, args=(cloud, random.Random(SEED), done, made))
        chaos.start()
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                desks = list(pool.map(lambda _: job(cloud, clients, made), range(JOBS)))
        finally:
            done.set()
            chaos.join()
        cloud.clear()
        seconds = time.monotonic() - started

        assert cloud.alive() == []
        instances = {item["id"]: item for item in cloud.instances()}
        written = Counter(
            call["key"]
            for call in cloud.journal()
            if call["operation"] == "PutObject" and call["key"].endswith("/result.json") and call["status"] == 200
        )
        spent = wasted = 0.0
        for desk in desks:
            assert desk.controller.state.outcome == "succeeded", desk.controller.state
            result = desk.store.read_json("result.json")
            assert json.loads(result["files"]["out/result.json"]) == {"sum": sum(range(STEPS + 1))}
            pushed = client(cloud, "s3").get_object(Bucket=cloud.bucket, Key=f"outputs/{desk.run_id}")["Body"].read()
            assert json.loads(pushed) == {"sum": sum(range(STEPS + 1))}
            assert written[f"{desk.spec.prefix}/result.json"] == 1
            names = desk.instances()
            history = desk.controller.state.history
            assert len(names) == len(history)  # an unknown launch was never launched twice
            for attempt, name in enumerate(names, start=1):
                spent += life(instances[name])
                wasted += idle_after_exit(instances[name], desk, attempt)
        print(f"{seconds:.0f} s, {len(instances)} instances, {spent:.0f} instance-seconds, {wasted:.0f} of them wasted")
        assert len(instances) > JOBS  # the faults were real
        assert wasted <= 0.1 * spent
