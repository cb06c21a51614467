"""What the first job of a lock waits for: the wheelhouse made and sent once, then fetched and installed on its node.

    python -m benchmarks.ec2_cold

For real, of this project's constraints.txt, with the bucket of a simulated cloud: no network between it and the node, but the
disk and the processors of this machine. benchmarks/ec2_session.py has the same with the environment prebuilt.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from infra.ec2.aws import Clients
from infra.ec2.environments import TRAIN
from infra.ec2.node.boot import Blob
from infra.ec2.node.bucket import Bucket
from infra.ec2.node.prepare import install
from infra.ec2.store import RunStore
from infra.ec2.wheelhouse import share_wheelhouse
from infra.sim.cloud import SimulatedCloud

ROOT = Path(__file__).parents[1]


def main(folder: Path) -> None:
    environment = dict(os.environ)
    with SimulatedCloud(folder / "cloud") as cloud:
        os.environ.update(cloud.environment)
        store = RunStore(Clients(), cloud.bucket, "us-east-1", "cold")
        started = time.time()
        made = share_wheelhouse(store, ROOT, TRAIN, environment, gpus=False)
        print(f"wheelhouse made and sent, once per lock: {time.time() - started:.0f} s", flush=True)
        started = time.time()
        share_wheelhouse(store, ROOT, TRAIN, environment, gpus=False)
        print(f"found by the next job: {time.time() - started:.1f} s", flush=True)
        bucket = Bucket(cloud.bucket, "runs/cold", "us-east-1", time.time() + 3600)
        node = folder / "node"
        node.mkdir()
        started = time.time()
        programs = install(bucket, Blob(**made), node)
        print(f"fetched and installed on a node: {time.time() - started:.0f} s", flush=True)
        size = sum(path.stat().st_size for path in programs.parent.rglob("*") if path.is_file())
        print(f"the environment: {size / 1e9:.1f} GB; load of this machine {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
