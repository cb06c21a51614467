"""A session on the simulated cloud, as it is printed in docs/ec2-session.md: capacity missing in one zone, a spot notice, the end.

    python -m benchmarks.ec2_session [FOLDER]

The stage is a counter that checkpoints (no torch), with the periods that a run has by default. Measured: from
RunInstances to the stage's first line at the controller, how long a line takes to get there, and the controller's calls.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from infra.ec2.spec import Rhythm
from infra.sim.cloud import SimulatedCloud
from infra.sim.faults import Rule
from tests.infra.ec2.desk import Desk

STEPS, STEP_SECONDS = 100, 0.5


class Watch:
    """Prints lines with their time since the launch; notes how late each came."""

    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud
        self.started = time.time()
        self.first_lines: list[float] = []
        self.delays: list[float] = []
        self.noticed = 0.0

    def say(self, text: str) -> None:
        print(f"{time.time() - self.started:6.1f} s  {text}", flush=True)

    def take(self, line: str) -> None:
        """A line of the run. The toy prints the time of each step."""
        now = time.time()
        if line.startswith("start at"):
            launched = [call["time"] for call in self.cloud.calls("RunInstances", status=200)][-1]
            self.first_lines.append(now - launched)
        if " at " in line and line.startswith("step "):
            line, _, printed = line.partition(" at ")
            self.delays.append(now - float(printed))
        step = line.removeprefix("step ")
        if not step.isdigit() or int(step) % 10 == 0:
            self.say(f"| {line}")


def main(folder: Path) -> None:
    started = time.time()
    with SimulatedCloud(folder) as cloud:
        os.environ.update(cloud.environment)
        print(f"simulated cloud at {cloud.endpoint} after {time.time() - started:.1f} s")
        cloud.fault(
            Rule(operation="RunInstances", match={"az": "us-east-1a"}, error="InsufficientInstanceCapacity", status=500)
        )
        watch = Watch(cloud)
        desk = Desk(
            cloud, STEPS, STEP_SECONDS, rhythm=Rhythm(heartbeat_seconds=5.0), work={"environment": {"TOY_TIMES": "1"}}
        )
        desk.lines = Lines(watch)
        desk.keep_beside()
        desk.wait_line("step 60", 120)
        watch.noticed = time.time()
        watch.say("spot notice: 120 s")
        cloud.spot_notice(desk.instances()[0], seconds=120)
        state = desk.join(300)
        for zone, status, error in desk.launches():
            watch.say(f"RunInstances in {zone}: HTTP {status} {error or ''}")
        for line in state.history:
            watch.say(line)
        watch.say(f"{state.outcome}, about {state.spent_usd:.4f} USD at list prices, attempts: {state.attempt}")
        watch.say(f"result.json: {desk.store.read_json('result.json')['files']['out/result.json']}")
        seconds = time.time() - watch.started
        calls = [call for call in cloud.journal() if call["caller"].startswith("AKIA") and call["time"] > watch.started]
        counted = Counter(call["operation"] for call in calls)
        quiet = [call for call in calls if watch.started + 20 < call["time"] < watch.noticed]
        rate = len(quiet) / (watch.noticed - watch.started - 20)
        print(f"instances alive: {len(cloud.alive())}")
        print(f"calls of the controller: {len(calls)} in {seconds:.0f} s:", dict(counted))
        print(f"its calls while the stage runs: {rate:.2f} per second")
        print(f"RunInstances to the stage's first line here: {', '.join(f'{s:.1f} s' for s in watch.first_lines)}")
        print(f"a line from the stage to here: at most {max(watch.delays):.1f} s ({len(watch.delays)} lines)")


class Lines(list[str]):
    """A list that shows what is appended."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def append(self, line: str) -> None:
        super().append(line)
        self._watch.take(line)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
