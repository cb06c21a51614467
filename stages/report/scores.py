"""Scores side by side: which benchmarks there are, means over the task types, and which gains are more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.common.records import TaskType
from stages.report.load import Score

HELDOUT = "heldout/"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, in [0, 1]; n questions."""

    mean: float
    low: float
    high: float
    n: int

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high


def wilson(scores: Sequence[float]) -> Interval:
    """Mean of scores in [0, 1] with Wilson's 95 % interval (1927), which is on the safe side for scores between 0 and 1."""
    z, n = 1.959963984540054, len(scores)
    mean = math.fsum(scores) / n
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)), n)


Table = dict[str, dict[str, Interval]]  # benchmark -> model -> interval


def table_of(scores: Mapping[str, Sequence[Score]], mode: str) -> Table:
    """The scores of one mode; benchmarks in reading order, questions never asked are absent."""
    table: Table = {}
    for model, rows in scores.items():
        for row in rows:
            if row.mode != mode or row.n == 0 or row.mean is None:
                continue
            low = row.mean if row.ci_low is None else row.ci_low
            high = row.mean if row.ci_high is None else row.ci_high
            table.setdefault(row.benchmark, {})[model] = Interval(row.mean, low, high, row.n)
    return {name: table[name] for name in sorted(table, key=_reading_order)}


def _reading_order(benchmark: str) -> tuple[int, int, str, int]:
    """Held-out tasks first, in the order of TaskType; then by name, lengths as numbers."""
    tasks = [HELDOUT + task.value for task in TaskType]
    if benchmark in tasks:
        return (0, tasks.index(benchmark), "", 0)
    name, _, length = benchmark.rpartition("/")
    return (1, 0, name, int(length)) if length.isdecimal() else (1, 0, benchmark, 0)


def mean_over_tasks(table: Table, model: str, tasks: Iterable[str] | None = None) -> Interval | None:
    """Mean over the held-out benchmarks, each counting once; None if the model was asked none of them.

    The interval adds the distances of the single limits in squares (Zou and Donner 2008, MOVER): the benchmarks are
    independent samples.

    >>> half = Interval(0.5, 0.1, 0.9, 4)
    >>> mean_over_tasks({"heldout/a": {"m": half}, "heldout/b": {"m": half}}, "m").n
    8
    """
    names = [name for name in (tasks or table) if name.startswith(HELDOUT) and model in table.get(name, {})]
    if not names:
        return None
    parts = [table[name][model] for name in names]
    mean = math.fsum(part.mean for part in parts) / len(parts)
    below = math.sqrt(math.fsum((part.mean - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(math.fsum((part.high - part.mean) ** 2 for part in parts)) / len(parts)
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above), sum(part.n for part in parts))


@dataclass(frozen=True)
class Comparison:
    """Two models on one benchmark. `clear`: their 95 % intervals are disjoint."""

    benchmark: str
    before: Interval
    after: Interval

    @property
    def clear(self) -> bool:
        return not self.before.overlaps(self.after)

    @property
    def gained(self) -> bool:
        return self.after.mean > self.before.mean


def compare(table: Table, before: str, after: str) -> list[Comparison]:
    """Every benchmark that both models were asked."""
    return [Comparison(name, row[before], row[after]) for name, row in table.items() if before in row and after in row]
