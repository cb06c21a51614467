"""The plumbing pipeline with its training stages on simulated EC2, rl@stage2 taken away twice: the weights of a local run."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from flows.params import profile_params, write_params
from infra.ec2.aws import Clients
from infra.ec2.store import RunStore, list_runs
from infra.sim.cloud import READY, SimulatedCloud
from tests.infra.sim.permission import need_namespaces
from tests.integration.tree import command, copy_project, environment, longfuse, reproduce

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STAGE = "rl@stage2"
STEPS = 120  # of that stage, so that there is time to take it away twice
TRAINED = ("sft", "rl@stage1", "rl@stage2", "rl@stage3", "memory_rl", "rl@stage4")


def project(folder: Path) -> Path:
    tree = copy_project(folder / "longfuse")
    params = profile_params("plumbing")
    params["rl"]["stage2"]["steps"] = STEPS
    # Steps of a fifth of a second replace checkpoints faster than they can be copied: one in ten is kept.
    params["rl"]["shared"]["checkpoint_every_steps"] = 10
    write_params(tree / "params.yaml", params)
    return tree


def outputs(tree: Path) -> dict[str, list]:
    lock = yaml.safe_load((tree / "dvc.lock").read_text())["stages"]
    return {stage: lock[stage]["outs"] for stage in (*TRAINED, "merge")}


class Thief:
    """Watches a run's checkpoints in the bucket and takes its instances away."""

    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud
        self.clients = Clients()

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

    def steal_twice(self, is_running) -> list[str]:
        """Without notice after an update, with a notice after a further one; the instances."""
        taken: list[str] = []
        store = self.wait(lambda: self.run_of(STAGE), is_running)
        seen = 0
        for kind in ("kill", "notice"):
            seen = self.wait(lambda seen=seen: (found := self.updates(store)) > seen and found, is_running)
            instance = self.instance(store)
            if kind == "kill":
                self.cloud.spot_kill(instance)
            else:
                self.cloud.spot_notice(instance, seconds=60)
            taken.append(instance)
            alive = lambda instance=instance: instance in [item["id"] for item in self.cloud.alive()]  # noqa: E731
            self.wait(lambda alive=alive: not alive(), is_running)
        return taken

    @staticmethod
    def wait(condition, is_running):
        while True:
            assert is_running(), "the pipeline ended before its instances could be taken away"
            if value := condition():
                return value
            time.sleep(0.1)


def test_the_pipeline_taken_away_twice_ends_with_the_weights_of_the_local_run(tmp_path, monkeypatch):
    need_namespaces()
    here = project(tmp_path / "here")
    reproduce(here, "rl@stage4")  # all training, without the evaluations

    there = project(tmp_path / "there")
    log = tmp_path / "there.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command("run", "--on", "ec2", "--simulate"), cwd=there, env=environment(), stdout=out, stderr=out
        )
    try:
        ready = there / ".state" / "simulated" / READY
        Thief.wait(ready.is_file, lambda: process.poll() is None)
        cloud = SimulatedCloud.attach(ready.parent)
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        thief = Thief(cloud)
        taken = thief.steal_twice(lambda: process.poll() is None)
        store = thief.run_of(STAGE)
        ended = Thief.wait(
            lambda: (state := store.read_state()[0]) and state["phase"] == "closed" and state,
            lambda: process.poll() is None,
        )
        assert [line.split()[-1] for line in ended["history"]] == ["lost", "interrupted", "succeeded"]
        assert process.wait(2400) == 0, log.read_text()[-4000:]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)

    assert len(set(taken)) == 2
    assert outputs(there) == outputs(here)
    before, after = (
        load_file(there / f"outputs/rl/{name}/data/model/model.safetensors") for name in ("stage1", STAGE[3:])
    )
    assert any((before[name] != after[name]).any() for name in before), "an update that moves nothing proves nothing"
    journal = [
        line for line in (there / ".state/simulated/journal.jsonl").read_text().splitlines() if "RunInstances" in line
    ]
    assert len(journal) >= len(TRAINED) + 2
    status = longfuse(there, "plan")
    assert "nothing to do" in status.stdout.lower(), status.stdout
