"""Scores of a benchmark with 95 % intervals.

Wilson's interval for scores that are 0 or 1. For ratios a seeded percentile bootstrap, but Wilson's with the mean in
place of the share where there are fewer than 10 scores or all are equal: a bootstrap would be too narrow (of one
score, a point), and since a score in [0, 1] varies at most as much as a 0/1 score of the same mean, Wilson's is on the
safe side. Each row of scores.json says which was used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.common.seeds import derive_seed
from stages.evaluation.base import Prediction, Question

_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_RESAMPLES = 2000
_MIN_FOR_BOOTSTRAP = 10


class Interval(NamedTuple):
    """A 95 % interval and how it was made."""

    low: float
    high: float
    kind: str


def wilson(mean: float, n: int) -> Interval:
    """Wilson's score interval (1927) of a share.

    >>> [round(x, 4) for x in wilson(0.5, 10)[:2]]
    [0.2366, 0.7634]
    """
    square = _Z * _Z
    centre = (mean + square / (2 * n)) / (1 + square / n)
    half = _Z * math.sqrt(mean * (1 - mean) / n + square / (4 * n * n)) / (1 + square / n)
    # At shares of 0 and 1 one limit is 0 or 1 exactly; floats miss it by 1e-17.
    low = 0.0 if mean == 0 else max(0.0, centre - half)
    high = 1.0 if mean == 1 else min(1.0, centre + half)
    return Interval(low, high, "wilson")


def bootstrap(scores: Sequence[float], seed: int) -> Interval:
    """Percentile bootstrap of the mean, 2,000 resamples; equal seeds give equal intervals."""
    values = np.asarray(scores, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [generator.choice(values, size=len(values)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap")


def interval(scores: Sequence[float], seed: int) -> Interval:
    """The interval that fits the scores."""
    mean = math.fsum(scores) / len(scores)
    is_binary = all(score in (0.0, 1.0) for score in scores)
    if is_binary or len(scores) < _MIN_FOR_BOOTSTRAP or len(set(scores)) == 1:
        return wilson(mean, len(scores))
    return bootstrap(scores, seed)


def score_rows(questions: Sequence[Question], predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    """One row per benchmark and mode, in the order in which they were asked."""
    scores: dict[tuple[str, str], list[float]] = {}
    metrics: dict[tuple[str, str], str] = {}
    for question, prediction in zip(questions, predictions, strict=True):
        key = (question.benchmark, question.mode)
        scores.setdefault(key, []).append(prediction.score)
        metrics[key] = question.metric
    rows = []
    for (benchmark, mode), values in scores.items():
        low, high, kind = interval(values, derive_seed(seed, "bootstrap", benchmark, mode))
        rows.append(
            {
                "benchmark": benchmark,
                "mode": mode,
                "metric": metrics[benchmark, mode],
                "n": len(values),
                "mean": math.fsum(values) / len(values),
                "ci_low": low,
                "ci_high": high,
                "interval": kind,
            }
        )
    return rows
