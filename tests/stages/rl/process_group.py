"""Runs a function of a test module in several processes that form one torch.distributed group (gloo, no network).

`run_together(2, "tests.stages.rl.deepspeed_checks:gradients", tmp_path, folder=...)` calls
`gradients(rank, folder=...)` in both and returns their JSON results, by rank. A process that fails ends the test with
its traceback.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[3]
SECONDS = 280


def run_together(count: int, target: str, work_dir: Path, /, **arguments: Any) -> list[Any]:
    meeting = work_dir / uuid.uuid4().hex
    meeting.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = []
    logs = [meeting / f"log-{rank}.txt" for rank in range(count)]
    for rank in range(count):
        command = [sys.executable, "-m", __name__, str(rank), str(count), str(meeting), target, json.dumps(arguments)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment | {"LOCAL_RANK": str(rank)},
                cwd=work_dir,
                stdout=logs[rank].open("w"),
                stderr=subprocess.STDOUT,
            )
        )
    deadline = time.monotonic() + SECONDS
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes) or time.monotonic() > deadline:
                break  # the others would wait for the one that failed
            time.sleep(0.05)
    finally:
        codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
    failed = [rank for rank, code in enumerate(codes) if code != 0]
    assert not failed, "\n".join(f"process {r} ({codes[r]}):\n{logs[r].read_text()[-4000:]}" for r in failed)
    return [json.loads((meeting / f"result-{rank}.json").read_text()) for rank in range(count)]


def _main(rank: int, count: int, meeting: Path, target: str, arguments: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(str(meeting / "store"), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=SECONDS))
    module, name = target.split(":")
    result = getattr(importlib.import_module(module), name)(rank, **arguments)
    (meeting / f"result-{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))
