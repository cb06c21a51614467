"""Runs of the toy stage under the real controller, with periods and limits that fit into seconds."""

import functools
import json
import sys
import threading
import time
import uuid
from pathlib import Path

from infra.ec2.aws import Clients
from infra.ec2.controller import Controller
from infra.ec2.follower import Follower
from infra.ec2.resources import Request
from infra.ec2.spec import Candidate, Rhythm, RunSpec, Stopping
from infra.ec2.store import RunStore
from infra.sim.account import IMAGE_PARAMETERS, NODE_PROFILE

TOY = Path(__file__).parents[1] / "sim" / "toy_stage.py"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
RHYTHM = Rhythm(
    poll_seconds=0.2,
    heartbeat_seconds=0.3,
    log_seconds=0.3,
    metadata_seconds=0.2,
    checkpoint_seconds=0.2,
    retry_seconds=0.05,
    lease_seconds=30.0,
)
# Far beyond what a busy machine makes of a second; a test that wants them to pass moves the controller's clock.
STOPPING = Stopping(
    pending_seconds=60.0, runtime_seconds=240.0, hard_cap_seconds=400.0, ttl_minutes=240, grace_seconds=10.0,
    boot_seconds=150.0, silence_seconds=60.0, max_attempts=8,
)  # fmt: skip
PATIENCE_SECONDS = 120.0
# For stages of a DVC project, which take longer than the toy.
STAGE_RHYTHM = Rhythm(poll_seconds=0.3, heartbeat_seconds=0.5, log_seconds=0.3, checkpoint_seconds=0.5)
STAGE_REQUEST = Request(accelerator="cpu", budget_usd=5.0, runtime_hours=0.2, disk_gb=20)


@functools.lru_cache(maxsize=4)
def clients_of(_endpoint):
    """Making clients takes longer than most calls. The cloud's variables are in the environment by now."""
    return Clients()


def candidates(zones=ZONES, market="spot"):
    return tuple(
        Candidate(market=market, instance_type="g5.xlarge", region="us-east-1", zone=zone, hourly_usd=0.6)
        for zone in zones
    )


class Desk:
    """One run: `keep` brings it to its end in this process. The cloud's variables must be in the environment.

    gate: the last step that the toy may do until `let` allows more. The controllers' clocks are `ahead` by so many seconds.
    """

    def __init__(self, cloud, *toy, gate=None, work=None, stopping=None, rhythm=RHYTHM, clients=None, **changes):
        self.cloud = cloud
        self.run_id = f"toy-{uuid.uuid4().hex[:8]}"
        self.clients = clients or clients_of(cloud.endpoint)
        self.ahead = 0.0
        self.gate = cloud.folder / f"{self.run_id}.gate"
        held = {}
        if gate is not None:
            self.let(gate)
            held = {"environment": {"TOY_GATE": str(self.gate)}}
        limits = STOPPING.model_copy(update=stopping or {})
        words = [sys.executable, str(TOY), "state", "out/result.json", *map(str, toy)]
        values = {
            "run_id": self.run_id,
            "stage": "toy",
            "bucket": cloud.bucket,
            "bucket_region": "us-east-1",
            "candidates": candidates(),
            "budget_usd": 5.0,
            "image_parameter": IMAGE_PARAMETERS[0],
            "instance_profile": NODE_PROFILE,
            "stopping": limits,
            "rhythm": rhythm,
            "work": {
                "command": words,
                "state_folder": "state",
                "result_files": ["out/result.json"],
                "reserve_mb": 1,
                **held,
                **(work or {}),
            },
        }
        self.spec = RunSpec(**{**values, **changes})
        self.store = RunStore(self.clients, cloud.bucket, "us-east-1", self.run_id)
        self.store.begin(self.spec)
        self.lines = []
        self.steps = []
        self.controller = None
        self.thread = None

    def make(self, on_metrics=None):
        store = RunStore(self.clients, self.cloud.bucket, "us-east-1", self.run_id, lambda: time.time() + self.ahead)
        follower = Follower(on_line=self.lines.append, on_metrics=on_metrics or self.steps.append)
        return Controller(self.clients, store, self.spec, follower)

    def let(self, step):
        """The toy may go on up to this step."""
        partial = self.gate.with_suffix(".partial")
        partial.write_text(str(step))
        partial.rename(self.gate)

    def time_passes(self, seconds, until):
        """So many seconds at once, again and again, until something has come of it."""

        def look():
            if until():
                return True
            self.ahead += seconds
            time.sleep(0.3)
            return False

        self.cloud.wait(look, PATIENCE_SECONDS, "what was to happen in time")

    def pauses_pass(self, until):
        """Each pause between two rounds of the search for capacity, once the controller is in it."""

        def look():
            left = self.controller.state.launch_after - time.time() - self.ahead if self.controller else 0.0
            self.ahead += max(0.0, left)
            return until()

        self.cloud.wait(look, PATIENCE_SECONDS, "what was to happen after a pause")

    def silence_is_noticed(self):
        """The controller hears nothing of a frozen instance for longer than it waits."""
        attempt = self.controller.state.attempt
        self.time_passes(
            self.spec.stopping.silence_seconds + 1.0,
            lambda: self.controller.state.phase != "watching" or self.controller.state.attempt > attempt,
        )

    def keep(self):
        self.controller = self.make()
        return self.controller.run()

    def keep_beside(self):
        """In a thread; `join` gives the state."""
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()
        return self

    def _keep(self):
        self.state = self.keep()

    def join(self, seconds=2 * PATIENCE_SECONDS):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), self.controller.state
        return self.state

    def wait_line(self, text, seconds=PATIENCE_SECONDS):
        """A line of the log. What the run came to instead is in the message."""

        def look():
            ended = self.thread is not None and not self.thread.is_alive()
            found = any(text in line for line in list(self.lines))
            assert found or not ended, f"the run ended without {text!r} in its log: {self.controller.state}"
            return found

        self.cloud.wait(look, seconds, f"{text!r} in the log")

    def wait_commit(self, step):
        """A checkpoint in the bucket that holds this step."""
        name = f"checkpoint-{step:06d}/state.json"

        def look():
            commits = sorted(key for key in self.store.keys("ckpt/") if key.endswith("COMMIT"))
            return commits and name in (self.store.read_json(commits[-1]) or {"files": {}})["files"]

        self.cloud.wait(look, PATIENCE_SECONDS, f"step {step} in a checkpoint")

    def until(self, condition, what):
        """Wait for an event."""
        return self.cloud.wait(condition, PATIENCE_SECONDS, what)

    def instances(self):
        """In the order of their launch."""
        found = self.cloud.instances(**{"longfuse:run": self.run_id})
        return [item["id"] for item in sorted(found, key=lambda item: item["timeline"][0])]

    def alive(self):
        return self.cloud.alive(**{"longfuse:run": self.run_id})

    def launches(self):
        """(zone, status, error) of every RunInstances of the run, in order."""
        return [(call["az"], call["status"], call["error"]) for call in self.run_instances()]

    def run_instances(self):
        """The journal of those."""
        return [call for call in self.cloud.calls("RunInstances") if self.run_id in call["params"].values()]

    def launched_once_for_each_of(self, attempts):
        """Every attempt had its instance from the first candidate, by one call: the journal's word."""
        assert self.launches() == [(ZONES[0], 200, None)] * attempts
        assert len(self.instances()) == attempts

    def ended_by(self, instance_id):
        """Who ended an instance, as EC2 says."""
        return next(item["reason"] for item in self.cloud.instances() if item["id"] == instance_id)

    def exit(self, attempt):
        return self.store.read_json(f"attempt-{attempt}/node-0/exit.json")

    def output(self):
        """What the toy wrote, from the result."""
        return json.loads(self.store.read_json("result.json")["files"]["out/result.json"])

    def results_written(self):
        key = f"{self.spec.prefix}/result.json"
        return len([call for call in self.cloud.calls("PutObject", key=key) if call["status"] == 200])

    def reasons(self):
        return [line.split()[-1] for line in self.store.read_json("closed.json")["history"]]
