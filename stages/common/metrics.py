"""Step metrics: deterministic ones go to data/metrics.jsonl (cached), clock readings only to the tracker.

Keys are the same in MLflow, files and the report (design section 4).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Emit = Callable[[int, Mapping[str, float]], None]

# These hold clock readings or machine facts: they must never reach a cached output.
VOLATILE_PREFIXES = ("time/", "perf/", "cost/", "judge/calls", "judge/cache_hits", "judge/timeouts", "judge/latency")


def is_volatile(key: str) -> bool:
    """True for metrics that differ between two equal runs."""
    return key.startswith(VOLATILE_PREFIXES)


@runtime_checkable
class EmitsTrajectories(Protocol):
    """An `Emit` that also takes records of the memory agent's trajectories (stages/memory/record.py)."""

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def trajectory(self, record: Mapping[str, Any]) -> None:
        """Keep a record for the tracker; never raises."""
        ...


def record_trajectory(emit: Emit, record: Mapping[str, Any]) -> None:
    """Hand a record to the tracker; without effect where `emit` takes metrics alone."""
    if isinstance(emit, EmitsTrajectories):
        emit.trajectory(record)


class StepMetrics:
    """Appends each step's deterministic metrics to a JSONL file and passes everything to `emit`.

    Resuming at step n: construct with `keep_steps=n`, lines of later steps (from before a crash) are cut off.
    """

    def __init__(self, path: Path, emit: Emit, keep_steps: int = 0) -> None:
        self._path = path
        self._emit = emit
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists() and keep_steps:
            kept = [
                line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] < keep_steps
            ]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one step (0-based)."""
        stable = {key: float(value) for key, value in sorted(metrics.items()) if not is_volatile(key)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **stable}, allow_nan=False) + "\n")
        self._emit(step, metrics)
