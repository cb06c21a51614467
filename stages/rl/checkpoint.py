"""Checkpoints of a training loop, and the finished rollouts of steps after it: what a killed stage continues from.

    state_dir/checkpoint-000004/{tensors.safetensors, state.json, COMMIT}     after 4 updates
    state_dir/rollouts-000005.jsonl                                           the scored groups of step 5

A checkpoint holds master weights, optimizer moments, sampler, entropy switch and counters. There is no other random
state: every draw takes its seed from (seed, step, place). It is written to a temporary folder that is renamed when all
of it is on disk; COMMIT carries each file's length and CRC and the run's fingerprint. What is torn or belongs to other
data is ignored and the reason logged. A resumed run equals an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.common.errors import InputError
from stages.common.rollouts import Rollout, RolloutGroup, Segment
from stages.common.storage import iter_json_lines, read_json, write_json, write_jsonl

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """step: updates done. tensors: the policy's state. state: JSON-safe state of everything else."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder.

    fingerprint: of the data, parameters and parent model; files of another fingerprint are not used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step` updates, then remove what it replaces."""
        final = self._folder / f"checkpoint-{step:06d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / "tensors.safetensors")
        write_json(partial / "state.json", dict(state))
        files = {name: _length_and_crc(partial / name) for name in ("tensors.safetensors", "state.json")}
        write_json(partial / "COMMIT", {"fingerprint": self._fingerprint, "step": step, "files": files})
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        self._remove_before(step)

    def latest(self) -> Checkpoint | None:
        """The newest usable checkpoint, or None. Why another was passed over is logged."""
        for path in sorted(self._folder.glob("checkpoint-*[0-9]"), reverse=True):
            try:
                return self._read(path)
            except (InputError, SafetensorError, OSError, KeyError, TypeError) as error:
                logger.warning("checkpoint %s is not used: %s", path.name, error)
        return None

    def _read(self, path: Path) -> Checkpoint:
        commit = read_json(path / "COMMIT")
        if commit["fingerprint"] != self._fingerprint:
            raise InputError("it belongs to other data, parameters or another parent model.")
        for name, expected in commit["files"].items():
            if not (path / name).is_file() or _length_and_crc(path / name) != expected:
                raise InputError(f"{name} is damaged or missing.")
        return Checkpoint(commit["step"], load_file(path / "tensors.safetensors"), read_json(path / "state.json"))

    def save_groups(self, step: int, groups: Sequence[RolloutGroup], sampler_state: Mapping[str, Any]) -> None:
        """Keep the scored groups of a step, and the sampler's state after drawing them."""
        head = {"fingerprint": self._fingerprint, "step": step, "groups": len(groups), "sampler": dict(sampler_state)}
        write_jsonl(self._groups_path(step), [head, *(asdict(group) for group in groups)])

    def load_groups(self, step: int) -> tuple[list[RolloutGroup], dict[str, Any]] | None:
        """The groups of a step and the sampler's state after them, if they were finished in this very run."""
        path = self._groups_path(step)
        if not path.is_file():
            return None
        try:
            return self._read_groups(path, step)
        except (InputError, KeyError, TypeError, ValueError) as error:
            logger.warning("rollouts %s are not used: %s", path.name, error)
            return None

    def _read_groups(self, path: Path, step: int) -> tuple[list[RolloutGroup], dict[str, Any]]:
        head, *lines = iter_json_lines(path)
        if head["fingerprint"] != self._fingerprint or head["step"] != step:
            raise InputError("they belong to other data, parameters or another parent model.")
        if len(lines) != head["groups"]:
            raise InputError(f"{head['groups']} groups were written, {len(lines)} are left.")
        return [_group(line) for line in lines], head["sampler"]

    def clear(self) -> None:
        """Remove everything: the stage is done."""
        for path in self._folder.glob("checkpoint-*"):
            shutil.rmtree(path)
        for path in self._folder.glob("rollouts-*.jsonl"):
            path.unlink()

    def _groups_path(self, step: int) -> Path:
        return self._folder / f"rollouts-{step:06d}.jsonl"

    def _remove_before(self, step: int) -> None:
        for path in self._folder.glob("checkpoint-*"):
            if path.name != f"checkpoint-{step:06d}":
                shutil.rmtree(path)
        for path in self._folder.glob("rollouts-*.jsonl"):
            if int(path.stem.removeprefix("rollouts-")) < step:
                path.unlink()


def _length_and_crc(path: Path) -> list[int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]


def _group(value: dict[str, Any]) -> RolloutGroup:
    rollouts = []
    for rollout in value["rollouts"]:
        segments = tuple(
            Segment(
                tuple(s["prompt_ids"]), tuple(s["response_ids"]), tuple(s["logprobs"]), s["kind"], s["finish_reason"]
            )
            for s in rollout["segments"]
        )
        rollouts.append(Rollout(segments, rollout["text"], rollout["reward"], dict(rollout["counters"])))
    return RolloutGroup(value["sample_id"], value["task_type"], value["group_id"], tuple(rollouts))


def fingerprint(*parts: str) -> str:
    """A short hash of what a run depends on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
