"""A whole pipeline with its training stages on simulated EC2, and somebody who takes the instances of a stage away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra.ec2.aws import Clients
from infra.ec2.store import RunStore, list_runs
from infra.sim.cloud import READY, SimulatedCloud
from tests.integration.tree import command, environment

STOLEN = "rl@stage2"
TRAINED = ("sft", "rl@stage1", "rl@stage2", "rl@stage3", "memory_rl", "rl@stage4")


def outputs(tree: Path, stages: tuple[str, ...] = (*TRAINED, "merge")) -> dict[str, list]:
    """What dvc.lock has of these stages' outputs: paths, sizes and md5s."""
    lock = yaml.safe_load((tree / "dvc.lock").read_text())["stages"]
    return {stage: lock[stage]["outs"] for stage in stages}


@contextmanager
def pipeline_on_ec2(
    tree: Path, log: Path, export: Callable[[Mapping[str, str]], None]
) -> Iterator[tuple[SimulatedCloud, subprocess.Popen]]:
    """`longfuse run --on ec2 --simulate` in a project, and its cloud. export: sets variables of this process, for boto3."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command("run", "--on", "ec2", "--simulate"), cwd=tree, env=environment(), stdout=out, stderr=out
        )
    try:
        ready = tree / ".state" / "simulated" / READY
        wait(ready.is_file, lambda: process.poll() is None)
        cloud = SimulatedCloud.attach(ready.parent)
        export(cloud.environment)
        yield cloud, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def wait(condition: Callable[[], Any], is_running: Callable[[], bool], pause_seconds: float = 0.1) -> Any:
    """The condition's value when it is true. It must come before the pipeline ends."""
    while True:
        assert is_running(), "the pipeline ended before its instances could be taken away"
        if value := condition():
            return value
        time.sleep(pause_seconds)


class Thief:
    """Watches the checkpoints of a stage's run in the bucket and takes its instances away."""

    def __init__(self, cloud: SimulatedCloud, is_running: Callable[[], bool], pause_seconds: float = 0.1) -> None:
        self.cloud = cloud
        self.clients = Clients()
        self.is_running = is_running
        self.pause_seconds = pause_seconds

    def run_of(self, stage: str) -> RunStore | None:
        for run_id in list_runs(self.clients, self.cloud.bucket, "us-east-1"):
            store = RunStore(self.clients, self.cloud.bucket, "us-east-1", run_id)
            if (store.read_json("spec.json") or {}).get("stage") == stage:
                return store
        return None

    def updates(self, store: RunStore) -> int:
        """Updates that the newest checkpoint in the bucket holds."""
        commits = sorted(key for key in store.keys("ckpt/") if key.endswith("COMMIT"))
        files = (store.read_json(commits[-1]) or {"files": {}})["files"] if commits else {}
        return max(
            (int(name.split("/")[0].partition("-")[2]) for name in files if name.startswith("checkpoint-")), default=0
        )

    def instance(self, store: RunStore) -> str:
        run_id = store.prefix.rpartition("/")[2]
        return self.cloud.wait(lambda: self.cloud.alive(**{"longfuse:run": run_id}), 300, "an instance")[0]["id"]

    def steal(self, *kinds: str) -> list[str]:
        """One instance after the other, each after an update that the one before had not made; the instances.

        kinds: "kill" (without notice) or "notice" (60 s before).
        """
        taken: list[str] = []
        store = self._wait(lambda: self.run_of(STOLEN))
        seen = 0
        for kind in kinds:
            seen = self._wait(lambda seen=seen: (found := self.updates(store)) > seen and found)
            instance = self.instance(store)
            if kind == "kill":
                self.cloud.spot_kill(instance)
            else:
                self.cloud.spot_notice(instance, seconds=60)
            taken.append(instance)
            alive = lambda instance=instance: instance in [item["id"] for item in self.cloud.alive()]  # noqa: E731
            self._wait(lambda alive=alive: not alive())
        return taken

    def end_of(self, store: RunStore) -> dict[str, Any]:
        """The state of its run when it is closed."""
        return self._wait(lambda: (state := store.read_state()[0]) and state["phase"] == "closed" and state)

    def _wait(self, condition: Callable[[], Any]) -> Any:
        return wait(condition, self.is_running, self.pause_seconds)
