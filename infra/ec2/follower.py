"""Hands over what a run prints and measures, from its numbered chunks in the bucket.

Lines: from the attempt that is under way when somebody begins to follow. Metrics: of every attempt from the first on, whoever
kept them, so that one tracking run has them all; what an attempt measures again after a restart is dropped by `MetricJoin`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.ec2.store import RunStore

OnLine = Callable[[str], None]


@dataclass
class Follower:
    """What of a run's output was handed over, over all attempts."""

    on_line: OnLine = lambda _line: None
    on_metrics: Callable[[bytes], None] | None = None  # whole lines
    _attempt: int = 0
    _chunk: int = 0  # the next one of the log
    _measured: tuple[int, int] = (1, 0)  # attempt and next chunk of the metrics
    _rest: bytes = field(default=b"", repr=False)  # a line whose end is in the next chunk

    def follow(
        self, store: RunStore, attempt: int, *, beat: Mapping[str, Any] | None, metrics: bool, rest: bool = False
    ) -> None:
        """Hand over what is new of an attempt; `rest`: all of it.

        Every look costs calls, so only one chunk is asked for that the heartbeat does not tell of.
        """
        if attempt != self._attempt:
            self._attempt, self._chunk = attempt, 0
        told = int(beat["log_chunks"]) if beat is not None else 0
        while (data := store.read(f"attempt-{attempt}/node-0/log/{self._chunk:06d}")) is not None:
            self._chunk += 1
            for line in data.decode("utf-8", "replace").splitlines():
                self.on_line(line)
            if not rest and self._chunk >= told:
                break
        if metrics or rest:
            self.measure(store, attempt, int(beat["metric_chunks"]) if beat is not None and not rest else None)

    def measure(self, store: RunStore, last_attempt: int, told: int | None = None) -> None:
        """Hand over metrics up to this attempt, all of the earlier ones; told: how many chunks of it there are, if known."""
        if self.on_metrics is None:
            return
        while True:
            attempt, chunk = self._measured
            data = store.read(f"attempt-{attempt}/node-0/metrics/{chunk:06d}")
            if data is not None:
                self._measured = (attempt, chunk + 1)
                self._take(data)
                if attempt == last_attempt and told is not None and chunk + 1 >= told:
                    return
            elif attempt < last_attempt:
                self._measured, self._rest = (attempt + 1, 0), b""  # half a line of a lost attempt is nobody's
            else:
                return

    def _take(self, data: bytes) -> None:
        whole, end, self._rest = (self._rest + data).rpartition(b"\n")
        if end and self.on_metrics is not None:
            self.on_metrics(whole + end)


class MetricJoin:
    """Passes each measurement once, whichever attempts or processes bring it: by its step and the names measured.

    An attempt goes on from a checkpoint that may be older than what was sent, and measures those steps again; whoever adopts
    a run reads all of it from the beginning. What stands in `spool` was had before.
    """

    def __init__(self, spool: Path | None = None) -> None:
        self._had: set[str] = set()
        if spool is not None and spool.is_file():
            self.new(spool.read_bytes())

    def new(self, lines: bytes) -> bytes:
        """Those of these whole lines that were not had yet; what is no measurement passes."""
        kept = []
        for line in lines.splitlines(keepends=True):
            name = _name(line)
            if name is not None and name in self._had:
                continue
            if name is not None:
                self._had.add(name)
            kept.append(line)
        return b"".join(kept)


def _name(line: bytes) -> str | None:
    """What a line is about: equal for the same step measured twice; None for lines without one (marks, half lines)."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    if "trajectory" in raw:
        return json.dumps(raw["trajectory"], sort_keys=True)
    return json.dumps([raw["step"], sorted(raw["metrics"])]) if {"step", "metrics"} <= raw.keys() else None
