"""Rows of the score table: means with 95 % intervals over questions, by benchmark and mode.

A question's score is the mean of its k samples; questions are the units that vary. The interval is a seeded percentile
bootstrap over questions, but Wilson's with the mean in place of the share where there are fewer than 10 questions or all
scores are equal: a bootstrap would be too narrow (of one score, a point), and since a score in [0, 1] varies at most as
much as a 0/1 score of the same mean, Wilson's is on the safe side. Each row says which was used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.common.seeds import derive_seed
from stages.evaluation.base import Prediction, Question
from stages.evaluation.planning import Planned

_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 200
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
    means = [
        values[generator.integers(len(values), size=(_RESAMPLES_AT_ONCE, len(values)))].mean(axis=1)
        for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap")


def interval(scores: Sequence[float], seed: int) -> Interval:
    """The interval of the mean of the questions' scores."""
    if len(scores) < _MIN_FOR_BOOTSTRAP or len(set(scores)) == 1:
        return wilson(_mean(scores), len(scores))
    return bootstrap(scores, seed)


def score_rows(
    planned: Sequence[Planned],
    predictions: Sequence[Sequence[Prediction]],
    unanswered: Mapping[int, str],
    seed: int,
) -> list[dict[str, Any]]:
    """One row per benchmark and mode, in the order in which they were planned.

    predictions: of each planned question, one per sample; empty for those in `unanswered` (position -> reason), which
    are counted by reason and in no mean.
    """
    positions: dict[tuple[str, str], list[int]] = {}
    for position, item in enumerate(planned):
        positions.setdefault((item.question.benchmark, item.mode), []).append(position)
    rows = []
    for (benchmark, mode), places in positions.items():
        questions = [planned[place].question for place in places if predictions[place]]
        answered = [predictions[place] for place in places if predictions[place]]
        reasons = Counter(unanswered[place] for place in places if place in unanswered)
        rows.append(
            {"benchmark": benchmark, "mode": mode}
            | _scored(planned[places[0]].question, questions, answered, derive_seed(seed, "bootstrap", benchmark, mode))
            | {"unanswered": dict(sorted(reasons.items()))}
        )
    return rows


def _scored(
    first: Question, questions: Sequence[Question], answered: Sequence[Sequence[Prediction]], seed: int
) -> dict[str, Any]:
    flat = [prediction for samples in answered for prediction in samples]
    by_group: dict[str, dict[str, list[float]]] = {}
    scores = [_mean([prediction.score for prediction in samples]) for samples in answered]
    for question, score in zip(questions, scores, strict=True):
        for key, value in question.groups.items():
            by_group.setdefault(key, {}).setdefault(value, []).append(score)
    failures = Counter(prediction.failure for prediction in flat if prediction.failure is not None)
    metrics = {
        name: _mean([_mean([prediction.metrics[name] for prediction in samples]) for samples in answered])
        for name in (first.more_metrics if answered else ())
    }
    if first.mean_over is not None and answered:
        metrics[f"mean_over_{first.mean_over}"] = _mean(
            [_mean(values) for values in by_group[first.mean_over].values()]
        )
    pairs = _pair_scores(questions, answered)
    if pairs:
        metrics["pair_accuracy"] = _mean(pairs)
    return {
        "metric": _metric(first, flat),
        "samples": len(answered[0]) if answered else 0,
        **_summary(scores, seed),
        "metrics": metrics,
        "groups": {
            key: {value: _summary(values, derive_seed(seed, key, value)) for value, values in sorted(groups.items())}
            for key, groups in sorted(by_group.items())
        },
        "failures": dict(sorted(failures.items())),
        "cut_answers": sum(prediction.finish_reason == "length" for prediction in flat),
        "context_cut": sum(samples[0].context_cut for samples in answered),
        "judge": _judged(flat),
    }


def _pair_scores(questions: Sequence[Question], answered: Sequence[Sequence[Prediction]]) -> list[float]:
    """Of each pair that was answered whole: the lower of its two scores, the mean over the samples."""
    samples: dict[str, list[Sequence[Prediction]]] = {}
    for question, predictions in zip(questions, answered, strict=True):
        if question.pair is not None:
            samples.setdefault(question.pair, []).append(predictions)
    return [
        _mean([min(one.score, other.score) for one, other in zip(*pair, strict=True)])
        for pair in samples.values()
        if len(pair) == 2
    ]


def _summary(scores: Sequence[float], seed: int) -> dict[str, Any]:
    if not scores:
        return {"n": 0, "mean": None, "ci_low": None, "ci_high": None, "interval": None}
    low, high, kind = interval(scores, seed)
    return {"n": len(scores), "mean": _mean(scores), "ci_low": low, "ci_high": high, "interval": kind}


def _metric(question: Question, predictions: Sequence[Prediction]) -> str:
    """The metric's name, with the judge's part in it if it had one."""
    if question.judge is None or all(prediction.judge is None for prediction in predictions):
        return question.metric
    return "judge" if question.judge.decides_alone else f"max({question.metric}, judge)"


def _judged(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """How the judge and the rule (right from 0.5 on) compare; None if there was no judge."""
    asked = [prediction for prediction in predictions if prediction.judge is not None]
    if not asked:
        return None
    decided = [
        (prediction.rule_score >= 0.5, prediction.judge == "yes")
        for prediction in asked
        if prediction.judge != "failed"
    ]
    return {
        "asked": len(asked),
        "yes": sum(judge for _, judge in decided),
        "failed": len(asked) - len(decided),
        "agreement": _mean([float(rule == judge) for rule, judge in decided]) if decided else None,
        "rule_only": sum(rule and not judge for rule, judge in decided),
        "judge_only": sum(judge and not rule for rule, judge in decided),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
