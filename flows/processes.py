"""Training on several processes: `python -m flows.stage NAME` starts itself again under torchrun, one process per GPU.

    one machine     the stage's process becomes the launcher: torchrun's own, called as a library, so exit codes, messages
                    and signals stay those of a single process, and nothing is left behind when it dies
    a cluster       its launcher runs `torchrun --nnodes N --nproc-per-node G -m flows.stage NAME` on every machine, with
                    the project's folder on storage that all of them share; a process that finds itself started by
                    torchrun launches nothing

Every process runs the whole stage; process 0 alone empties the output, writes the record and sends metrics.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows.catalog import StageSpec
from infra.settings import export
from stages.common.config import Section
from stages.common.errors import ConfigError, EnvironmentFailureError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from stages.rl.distributed import World

logger = logging.getLogger(__name__)

LAUNCHER = "LONGFUSE_LAUNCHER"  # set for processes that were started here; its messages are told by the launcher
_PR_SET_PDEATHSIG = 1
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def process_count(spec: StageSpec, config: Section) -> int | None:
    """Processes that a stage asks for on this machine; None: it does not train with DeepSpeed."""
    distributed = getattr(getattr(config, "train", None), "distributed", None)
    if not spec.trains or distributed is None or distributed.backend != "deepspeed":
        return None
    if not getattr(getattr(config, "sft", None), "enabled", True):
        return None
    if distributed.processes:
        return int(distributed.processes)
    import torch

    return max(1, torch.cuda.device_count())


def rank() -> int:
    """This process's number under torchrun; 0 without."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def under_torchrun() -> bool:
    """True if torchrun, here or on a cluster, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def started_here() -> bool:
    """True if a launcher of this module has started this process."""
    return LAUNCHER in os.environ


def parent_process() -> list[int]:
    """The launcher, which this process must not outlive; also asks the kernel for SIGTERM when it ends."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    return [parent]


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `python -m flows.stage ARGUMENTS` in `count` processes; returns the exit code of the one that failed first.

    Signals are passed on. That process's message is told here, once.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its table of failures; ours is shorter
    export({LAUNCHER: str(os.getpid()), "TORCHELASTIC_LOG_LEVEL": "CRITICAL"})
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a laptop's own name may not resolve
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
    )
    logger.info("starting %d processes", count)
    try:
        elastic_launch(config, sys.executable)("-m", "flows.stage", *arguments)
    except ChildFailedError as error:
        failures = error.failures
        failed = min(failures, key=lambda r: (_likelihood(failures[r].exitcode), failures[r].timestamp, r))
        return _tell_failure(failed, failures[failed], count)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _likelihood(exit_code: int) -> int:
    """Which of several failures comes first: one that the system has ended, one that gave up, one that torchrun stopped."""
    if exit_code < 0:
        return 2 if -exit_code in _STOPPING else 0
    return 1


def _tell_failure(failed: int, failure: ProcessFailure, count: int) -> int:
    """Say what happened to the first process that failed; the launcher's exit code."""
    exit_code, message = failure.exitcode, cast("str | Mapping[str, str]", failure.message)
    told = Path(failure.error_file).is_file()
    who = f"process {failed} of {count}"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        if -exit_code in _STOPPING:
            return 128 - exit_code
        reason = " (the kernel does that when memory runs out)" if -exit_code == signal.SIGKILL else ""
        sys.stderr.write(
            f"{who} was ended by {name}{reason}; the others were stopped. The next run continues from the last "
            "checkpoint.\n"
        )
        return 3
    if isinstance(
        message, Mapping
    ):  # what the file holds under "message"; some releases of torch unpack it, some do not
        message = message["message"]
    text = message if told else f"it ended with exit code {exit_code} and left no message"
    sys.stderr.write((text if told and failed == 0 else f"{who}: {text}").rstrip() + "\n")
    return exit_code


def report_failure(message: str) -> None:
    """Leave this process's message where torchrun looks for it."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        details = {"message": message, "extraInfo": {"py_callstack": "", "timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": details}), encoding="utf-8")


def join(state_root: Path) -> World:
    """Meet the other processes of this stage. state_root: a folder that all must share.

    Raises EnvironmentFailureError if they do not come, or see another project folder.
    """
    import torch
    import torch.distributed as dist

    from stages.rl.distributed import MEETING_SECONDS, current_world

    on_gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU: {torch.cuda.device_count()} are visible. Lower "
                "train.distributed.processes, or set it to 0 for one process per GPU."
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=MEETING_SECONDS))
    except (RuntimeError, ValueError) as error:
        raise EnvironmentFailureError(f"the processes of this stage did not meet: {error}") from None
    world = current_world()
    _check_shared(world, state_root)
    return world


def _check_shared(world: World, state_root: Path) -> None:
    """Every process must see what process 0 writes: checkpoints and results lie in one folder."""
    name = world.from_first(f".meeting-{uuid.uuid4().hex}", "start of the stage")
    if world.rank == 0:
        state_root.mkdir(parents=True, exist_ok=True)
        (state_root / name).touch()
    world.meet("start of the stage")
    seen = world.gather((state_root / name).exists(), "start of the stage")
    if world.rank == 0:
        (state_root / name).unlink()
    if not all(seen):
        raise EnvironmentFailureError(
            f"process {seen.index(False)} does not see the project folder of process 0. Put the project on storage that "
            "all machines share, at the same path."
        )
