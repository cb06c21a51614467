"""The finished groups of one training step on disk, one line each, appended the moment a group is scored.

    state_dir/rollouts-000005-rank-0000.jsonl
        8a1f20c3 {"fingerprint": .., "step": 5}                      CRC-32 of the JSON, the JSON
        77b1e0aa {"attempt": 0, "group": {..}}                       attempt: refill of dynamic sampling
        5e21aa07 {"turn": "0/3/s-1/all/2", "completions": [..]}      a turn of a memory group that is not finished yet
        0c9d31f2 {"note": "eval", "value": {..}}                     a small result that belongs to the step

A kill can tear the last line only: it is cut off, and the groups before it are used. A file of another run is removed, one
that was damaged elsewhere is used up to the damage, with the reason logged. A prompt is written once per group. With
several processes each appends to its own file and all read all of them.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from stages.common.rollouts import Completion, Rollout, RolloutGroup, Segment, TurnLog

logger = logging.getLogger(__name__)


class FinishedGroups:
    """What is finished of one step. The file is made with the first thing that is added.

    fingerprint: of the data, parameters and parent model; a file of another fingerprint is removed.
    others: the files of other processes; read once, never changed.
    """

    def __init__(self, path: Path, fingerprint: str, step: int, others: Sequence[Path] = ()) -> None:
        self._path = path
        self._head = {"fingerprint": fingerprint, "step": step}
        self._groups: dict[tuple[int, int], RolloutGroup] = {}
        self._notes: dict[str, Any] = {}
        self._turns: dict[str, list[Completion]] = {}
        for other in others:
            self._read(other)
        if path.is_file() and (good_bytes := self._read(path)) < path.stat().st_size:
            if good_bytes == 0:
                path.unlink()
            else:
                os.truncate(path, good_bytes)

    def get(self, attempt: int, place: int, sample_id: str) -> RolloutGroup | None:
        """The group of that sample at that place of the batch, if it is finished."""
        group = self._groups.get((attempt, place))
        return group if group is not None and group.sample_id == sample_id else None

    def add(self, attempt: int, group: RolloutGroup) -> None:
        """Keep a finished group; on disk when this returns."""
        self._groups[attempt, group.group_id] = group
        self._append({"attempt": attempt, "group": encode_group(group)})

    def turn_log(self, attempt: int) -> TurnLog:
        """The turns of groups that are under way in one attempt."""
        return _Turns(self, attempt)

    def kept_turn(self, name: str) -> list[Completion] | None:
        """What `keep_turn` kept under this name, or None."""
        return self._turns.get(name)

    def keep_turn(self, name: str, completions: list[Completion]) -> None:
        """Keep the completions of a turn; on disk when this returns. A finished group makes its turns superfluous."""
        self._append({"turn": name, "completions": [[c.token_ids, c.logprobs, c.finish_reason] for c in completions]})

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON-safe result of this step."""
        self._notes[name] = value
        self._append({"note": name, "value": value})

    def noted(self, name: str) -> Any | None:
        """What `note` kept under this name, or None."""
        return self._notes.get(name)

    def __len__(self) -> int:
        return len(self._groups)

    def _append(self, value: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = not self._path.is_file()
        with self._path.open("ab") as file:
            if new:
                file.write(_line(self._head))
            file.write(_line(value))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> int:
        """Take the whole lines of this run; how many bytes they are."""
        good_bytes, groups = 0, 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                value = _parse(line)
                if value is None:
                    logger.warning(
                        "%s: line %d is torn or damaged; the %d groups before it are used",
                        path.name,
                        number + 1,
                        groups,
                    )
                    break
                if number == 0 and value != self._head:
                    logger.warning("%s is not used: it belongs to other data, parameters or parent model", path.name)
                    break
                if "group" in value:
                    group = decode_group(value["group"])
                    self._groups[value["attempt"], group.group_id] = group
                    groups += 1
                elif "turn" in value:
                    self._turns[value["turn"]] = [
                        Completion(tuple(ids), tuple(logprobs), reason)
                        for ids, logprobs, reason in value["completions"]
                    ]
                elif "note" in value:
                    self._notes[value["note"]] = value["value"]
                good_bytes += len(line)
        return good_bytes


class _Turns:
    """A TurnLog over the step's file."""

    def __init__(self, finished: FinishedGroups, attempt: int) -> None:
        self._finished = finished
        self._attempt = attempt

    def get(self, name: str) -> list[Completion] | None:
        return self._finished.kept_turn(f"{self._attempt}/{name}")

    def add(self, name: str, completions: list[Completion]) -> None:
        self._finished.keep_turn(f"{self._attempt}/{name}", completions)


def _line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """The value of a line, or None if it is not what was written."""
    if not line.endswith(b"\n") or line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
        return None
    value: dict[str, Any] = json.loads(line[9:-1])
    return value


def encode_group(group: RolloutGroup) -> dict[str, Any]:
    """A group as JSON-safe values; each distinct prompt stands once, segments hold its number."""
    prompts: dict[tuple[int, ...], int] = {}
    rollouts = []
    for rollout in group.rollouts:
        segments = []
        for segment in rollout.segments:
            number = prompts.setdefault(segment.prompt_ids, len(prompts))
            segments.append(_fields(segment) | {"prompt_ids": number})
        rollouts.append(_fields(rollout) | {"segments": segments})
    return _fields(group) | {"rollouts": rollouts, "prompts": list(prompts)}


def decode_group(value: dict[str, Any]) -> RolloutGroup:
    """The group that `encode_group` has written."""
    prompts = [tuple(prompt) for prompt in value.pop("prompts")]
    rollouts = []
    for rollout in value["rollouts"]:
        segments = [
            Segment(
                **segment
                | {
                    "prompt_ids": prompts[segment["prompt_ids"]],
                    "response_ids": tuple(segment["response_ids"]),
                    "logprobs": tuple(segment["logprobs"]),
                }
            )
            for segment in rollout["segments"]
        ]
        rollouts.append(Rollout(**rollout | {"segments": tuple(segments)}))
    return RolloutGroup(**value | {"rollouts": tuple(rollouts)})


def _fields(value: Any) -> dict[str, Any]:
    """A data class's own fields; unlike asdict without a deep copy of prompts of 100,000 tokens."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
