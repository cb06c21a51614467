"""Checkpoints of a training loop, and the finished rollouts of steps after it: what a killed stage continues from.

    state_dir/checkpoint-000004/{rank-0000.safetensors, .., state.json, COMMIT}     after 4 updates
    state_dir/rollouts-000005-rank-0000.jsonl                                       finished groups of step 5

A checkpoint holds master weights and optimizer moments (one file per process), sampler, entropy switch and counters.
There is no random state to keep: every draw takes its seed from (seed, step, place), and no layer drops out; a test
holds that a step leaves the generators of torch, numpy and Python untouched. It is written to a temporary folder that is
renamed when all of it is on disk; COMMIT carries each file's length and CRC, the number of processes and the run's
fingerprint. What is torn, of other data or of another number of processes is refused and the reason logged; an older one
is used then. A resumed run equals an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json
from stages.rl.finished import FinishedGroups

logger = logging.getLogger(__name__)

# A process that was told to stop has a few seconds: a checkpoint is written if it should take no longer.
STOP_SECONDS = 2.0
DISK_BYTES_PER_SECOND = 200e6  # assumed until one has been written


@dataclass(frozen=True)
class Checkpoint:
    """step: updates done. tensors: this process's part of the policy's state. state: JSON-safe state of all else."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder.

    fingerprint: of the data, parameters and parent model; files of another fingerprint are not used.
    keep: how many stay. rank, world_size: of this process; every process calls `save` and `latest`, process 0 commits.
    barrier: returns when all processes have called it (needed if there are several; they share the folder).
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        keep: int = 1,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] | None = None,
    ) -> None:
        assert world_size == 1 or barrier is not None
        self._folder = folder
        self._fingerprint = fingerprint
        self._keep = keep
        self._rank = rank
        self._world_size = world_size
        self._barrier = barrier if barrier is not None else _nobody_to_wait_for
        self._seconds: float | None = None  # what the last one took

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step` updates, then remove what it replaces."""
        started = time.perf_counter()
        final = self._folder / f"checkpoint-{step:06d}"
        partial = final.with_name(final.name + ".partial")
        if self._rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._barrier()
        mine = partial / _rank_file(self._rank)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, mine)
        _sync(mine)
        write_json(mine.with_suffix(".json"), _length_and_crc(mine))
        self._barrier()
        if self._rank == 0:
            write_json(partial / "state.json", dict(state))
            files = {path.name: _length_and_crc(path) for path in [partial / "state.json"]}
            for rank in range(self._world_size):
                files[_rank_file(rank)] = read_json((partial / _rank_file(rank)).with_suffix(".json"))
            head = {"fingerprint": self._fingerprint, "step": step, "world_size": self._world_size}
            write_json(partial / "COMMIT", {**head, "files": files})
            _remove_folder(final)
            partial.rename(final)
            _sync(self._folder)
            self._remove_others(step)
        self._barrier()
        self._seconds = time.perf_counter() - started

    @contextmanager
    def saved_if_stopped(
        self, step: int, tensors: Callable[[], Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> Iterator[None]:
        """If a signal ends what happens inside, write the checkpoint of `step` updates first, where that is quick.

        Weights must not change inside. Not with several processes: they are not stopped at the same place.
        """
        try:
            yield
        except Exception:
            raise  # a failure, not a signal: the last checkpoint stands
        except BaseException:
            if step > 0 and self._world_size == 1 and not (self._folder / f"checkpoint-{step:06d}").exists():
                values = tensors()
                size = sum(tensor.numel() * tensor.element_size() for tensor in values.values())
                seconds = self._seconds if self._seconds is not None else size / DISK_BYTES_PER_SECOND
                if seconds <= STOP_SECONDS:
                    self.save(step, values, state)
                    logger.info("stopped: the checkpoint after %d updates is written", step)
            raise

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that every process can use, or None. Why another was passed over is logged."""
        usable = {}
        for path in sorted(self._folder.glob("checkpoint-*[0-9]"), reverse=True):
            try:
                usable[int(path.name.removeprefix("checkpoint-"))] = self._check(path)
            except (InputError, OSError, KeyError, TypeError, ValueError) as error:
                logger.warning("checkpoint %s is not used: %s", path.name, error)
        for step in self._agreed(sorted(usable, reverse=True)):
            path = usable[step]
            try:
                return Checkpoint(step, load_file(path / _rank_file(self._rank)), read_json(path / "state.json"))
            except SafetensorError as error:
                if self._world_size > 1:
                    raise InputError(f"{path / _rank_file(self._rank)} is no safetensors file: {error}.") from None
                logger.warning("checkpoint %s is not used: %s", path.name, error)
        return None

    def _agreed(self, steps: list[int]) -> list[int]:
        """Those of `steps` (newest first) that all processes have found usable."""
        if self._world_size == 1:
            return steps
        write_json(self._folder / f"usable-{_rank_file(self._rank)}.json", steps)
        self._barrier()
        lists = [read_json(self._folder / f"usable-{_rank_file(rank)}.json") for rank in range(self._world_size)]
        self._barrier()
        (self._folder / f"usable-{_rank_file(self._rank)}.json").unlink()
        return [step for step in steps if all(step in other for other in lists)]

    def _check(self, path: Path) -> Path:
        """The folder, if it is whole and of this run."""
        commit = read_json(path / "COMMIT")
        if commit["fingerprint"] != self._fingerprint:
            raise InputError("it belongs to other data, parameters or another parent model.")
        if commit["world_size"] != self._world_size:
            raise InputError(f"it was written by {commit['world_size']} processes, now there are {self._world_size}.")
        for name in (_rank_file(self._rank), "state.json"):
            if not (path / name).is_file() or _length_and_crc(path / name) != commit["files"][name]:
                raise InputError(f"{name} is damaged or missing.")
        return path

    def finished(self, step: int, of: str = "rollouts") -> FinishedGroups:
        """What is finished of a step (0-based), by any process, and where to keep more of it.

        of: whose steps; "rollouts" are the loop's and leave with its checkpoints, others stay until `clear`.
        """
        mine = self._folder / f"{of}-{step:06d}-rank-{self._rank:04d}.jsonl"
        others = sorted(set(self._folder.glob(f"{of}-{step:06d}-rank-*.jsonl")) - {mine})
        finished = FinishedGroups(mine, self._fingerprint, step, others)
        self._barrier()  # nobody adds to a file that another still reads
        return finished

    def clear(self) -> None:
        """Remove everything: the stage is done."""
        for path in self._folder.glob("checkpoint-*"):
            shutil.rmtree(path)
        for path in self._folder.glob("*-rank-*.jsonl"):
            path.unlink()

    def _remove_others(self, step: int) -> None:
        """Keep the newest checkpoints up to `step`, and the rollouts of the steps after the oldest of them."""
        numbers = sorted(int(path.name[-6:]) for path in self._folder.glob("checkpoint-*[0-9]"))
        kept = [number for number in numbers if number <= step][-self._keep :]
        for path in self._folder.glob("checkpoint-*"):
            if path.name not in {f"checkpoint-{number:06d}" for number in kept}:
                _remove_folder(path)
        for path in self._folder.glob("rollouts-*.jsonl"):
            if int(path.name.split("-")[1]) < kept[0]:
                path.unlink()


def _nobody_to_wait_for() -> None:
    """The barrier of a single process."""


def _rank_file(rank: int) -> str:
    return f"rank-{rank:04d}.safetensors"


def _remove_folder(path: Path) -> None:
    """Remove a folder in such a way that a kill leaves nothing that looks like a checkpoint."""
    if path.exists() and not path.name.endswith((".partial", ".old")):
        old = path.with_name(path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        path = path.rename(old)
    shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _length_and_crc(path: Path) -> list[int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]


def fingerprint(*parts: str) -> str:
    """A short hash of what a run depends on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
