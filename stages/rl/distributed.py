"""The processes of one stage: who is there, what they tell each other, and waits that end.

Every process runs the same stage and the same loop; what they must agree on (rollouts, scores, a checkpoint) they
exchange here, over gloo on the CPU, apart from the GPU traffic of DeepSpeed. Nothing is pickled: values travel as JSON,
whose floats come back as they went. Before an exchange all meet; who does not come within the time is named together
with the phase, so a process that hangs ends the stage with a reason instead of stopping it for ever.

The process group itself is made by whoever starts the processes (flows/processes.py), or here for a single one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from stages.common.errors import EnvironmentFailureError
from stages.common.records import Sample
from stages.common.rollouts import RolloutGroup, TurnLog
from stages.engines.groups import OnGroup
from stages.rewards.hybrid import HybridReward
from stages.rl.finished import decode_group, encode_group
from stages.rl.rollout import RolloutSource

MEETING_SECONDS = 1800.0  # an update, a sync or a save: far longer than any of them takes
ROLLOUT_SECONDS = 4 * 3600.0  # the slowest answer of the slowest process


@dataclass(frozen=True)
class World:
    """The processes of this stage. group: their gloo group; None: this process is alone."""

    rank: int
    size: int
    group: Any

    def meet(self, phase: str, seconds: float = MEETING_SECONDS) -> None:
        """Wait for all processes. EnvironmentFailureError names the phase and who did not come."""
        if self.group is None:
            return
        started = time.monotonic()
        try:
            dist.monitored_barrier(group=self.group, timeout=timedelta(seconds=seconds), wait_all_ranks=True)
        except RuntimeError as error:
            waited = time.monotonic() - started
            reason = "did not all come" if waited > 0.9 * seconds else "are no longer all there"
            raise EnvironmentFailureError(
                f"process {self.rank} of {self.size} waited {waited:.0f} s (at most {seconds:.0f}) for the others, which "
                f"{reason}: {phase}; {_first_line(error)}. The next run continues from the last checkpoint."
            ) from None

    def gather(self, value: Any, phase: str, seconds: float = MEETING_SECONDS) -> list[Any]:
        """Each process's JSON value, by rank, on all of them."""
        if self.group is None:
            return [json.loads(json.dumps(value))]
        self.meet(phase, seconds)
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(data)]), group=self.group)
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.group)
        return [
            json.loads(bytes(part[: int(length)].numpy().tobytes()))
            for part, length in zip(parts, lengths, strict=True)
        ]

    def from_first(self, value: Any, phase: str, seconds: float = MEETING_SECONDS) -> Any:
        """The JSON value of process 0, on all of them."""
        return self.gather(value if self.rank == 0 else None, phase, seconds)[0]

    def sum(self, tensor: Tensor, phase: str) -> Tensor:
        """Sum a CPU tensor over all processes, in place."""
        if self.group is not None:
            self.meet(phase)
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def copy_from_first(self, tensor: Tensor) -> None:
        """Overwrite a CPU tensor by that of process 0, in place."""
        if self.group is not None:
            dist.broadcast(tensor, src=0, group=self.group)


_gloo_group: Any = None  # of the default process group; torch makes a new one at every call of new_group


def current_world() -> World:
    """The processes of torch.distributed's default group; one process alone if there is none."""
    global _gloo_group
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return World(0, 1, None)
    if _gloo_group is None:
        _gloo_group = dist.new_group(backend="gloo", timeout=timedelta(seconds=MEETING_SECONDS))
    return World(dist.get_rank(), dist.get_world_size(), _gloo_group)


def ensure_process_group() -> None:
    """Make the process group of a process that is alone; DeepSpeed wants one. No address and no port is needed."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it even where it stands alone
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


class DistributedRolloutSource:
    """Each process makes its share of the groups with its own engine; all of them get all groups.

    Place p of the batch goes to process p mod size, with the seed of its place, so the groups are those that one
    process would make.
    """

    def __init__(self, source: RolloutSource, world: World) -> None:
        self._source = source
        self._world = world
        self.reward: HybridReward = source.reward  # its judge's ledger is that of this process
        self.reward_seconds = 0.0

    def __call__(
        self,
        samples: Sequence[Sample],
        step: int,
        attempt: int = 0,
        *,
        places: Sequence[int] | None = None,
        on_group: OnGroup | None = None,
        turn_log: TurnLog | None = None,
    ) -> list[RolloutGroup]:
        """One group per sample, in order; `on_group` gets this process's groups as soon as they are scored."""
        everywhere = list(places or range(len(samples)))
        mine = range(self._world.rank, len(samples), self._world.size)
        groups: list[RolloutGroup] = []
        if mine:
            groups = self._source(
                [samples[i] for i in mine],
                step,
                attempt,
                places=[everywhere[i] for i in mine],
                on_group=on_group,
                turn_log=turn_log,
            )
        told = self._world.gather(
            {
                "groups": [encode_group(group) for group in groups],
                "reward_seconds": self._source.reward_seconds if mine else 0,
            },
            f"rollouts of step {step + 1}",
            ROLLOUT_SECONDS,
        )
        self.reward_seconds = max(entry["reward_seconds"] for entry in told)
        shares = [iter(entry["groups"]) for entry in told]
        return [decode_group(next(shares[i % self._world.size])) for i in range(len(samples))]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
