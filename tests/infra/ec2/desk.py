"""Runs of the toy stage under the real controller, with periods and limits that fit into seconds."""

import sys
import threading
import uuid
from pathlib import Path

from infra.ec2.aws import Clients
from infra.ec2.controller import Controller, Follower
from infra.ec2.spec import Candidate, Rhythm, RunSpec, Stopping
from infra.ec2.store import RunStore
from infra.sim.account import IMAGE_PARAMETERS, NODE_PROFILE

TOY = Path(__file__).parents[1] / "sim" / "toy_stage.py"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
RHYTHM = Rhythm(
    poll_seconds=0.5,
    heartbeat_seconds=0.5,
    log_seconds=0.5,
    metadata_seconds=0.2,
    checkpoint_seconds=0.3,
    lease_seconds=3.0,
)
STOPPING = Stopping(
    pending_seconds=4.0, runtime_seconds=120.0, hard_cap_seconds=240.0, ttl_minutes=60, grace_seconds=3.0,
    boot_seconds=40.0, silence_seconds=6.0, max_attempts=8,
)  # fmt: skip


def candidates(zones=ZONES, market="spot"):
    return tuple(
        Candidate(market=market, instance_type="g5.xlarge", region="us-east-1", zone=zone, hourly_usd=0.6)
        for zone in zones
    )


class Desk:
    """One run: `keep` brings it to its end in this process. The cloud's variables must be in the environment."""

    def __init__(self, cloud, *toy, work=None, stopping=None, rhythm=RHYTHM, clients=None, **changes):
        self.cloud = cloud
        self.run_id = f"toy-{uuid.uuid4().hex[:8]}"
        self.clients = clients or Clients()
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

    def make(self):
        follower = Follower(on_line=self.lines.append, on_metrics=self.steps.append)
        return Controller(self.clients, self.store, self.spec, follower)

    def keep(self):
        self.controller = self.make()
        return self.controller.run()

    def keep_beside(self):
        """In a thread; `join` gives the state."""
        self.thread = threading.Thread(target=self._keep)
        self.thread.start()
        return self

    def _keep(self):
        self.state = self.keep()

    def join(self, seconds=60):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), self.controller.state
        return self.state

    def wait_line(self, text, seconds=40):
        self.cloud.wait(lambda: any(text in line for line in self.lines), seconds, f"{text!r} in the log")

    def instances(self):
        """In the order of their launch."""
        found = self.cloud.instances(**{"longfuse:run": self.run_id})
        return [item["id"] for item in sorted(found, key=lambda item: item["timeline"][0])]

    def alive(self):
        return self.cloud.alive(**{"longfuse:run": self.run_id})

    def launches(self):
        """(zone, status, error) of every RunInstances of the run, in order."""
        mine = [call for call in self.cloud.calls("RunInstances") if self.run_id in call["params"].values()]
        return [(call["az"], call["status"], call["error"]) for call in mine]

    def results_written(self):
        key = f"{self.spec.prefix}/result.json"
        return len([call for call in self.cloud.calls("PutObject", key=key) if call["status"] == 200])

    def reasons(self):
        return [line.split()[-1] for line in self.store.read_json("closed.json")["history"]]
