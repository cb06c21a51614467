"""A few predictions to read: for every task type of the held-out questions, right and wrong ones of the last model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages.report.answers import Failure
from stages.report.load import FIRST_MODEL, FULL_CONTEXT, LAST_MODEL, Prediction, iter_predictions
from stages.report.scores import HELDOUT
from stages.report.untrusted import readable


@dataclass(frozen=True)
class Answer:
    """What one model said, and its score."""

    model: str
    text: str
    score: float
    link: str = ""  # predictions.jsonl, relative to the report


@dataclass(frozen=True)
class Example:
    """One question with the answers of the first and the last model. All text is cut and of one line, not escaped."""

    task_type: str
    sample_id: str
    question: str
    gold: str
    answers: tuple[Answer, ...]
    kind: str = ""  # in which way the last model's answer is wrong
    line: int = 0  # of the last model's answer in its file, from 1; 0: not told


def choose_examples(inputs: Mapping[str, Path], per_task: int, links: Mapping[str, str]) -> list[Example]:
    """At most `per_task` questions per task type, by turns one that was answered well and one that was not.

    The choice depends on scores and sample ids alone, so equal predictions give equal examples.
    """
    if per_task == 0:
        return []
    by_task: dict[str, list[Prediction]] = {}
    for prediction in iter_predictions(inputs[f"evaluate_{LAST_MODEL}"]):
        if prediction.mode == FULL_CONTEXT and prediction.benchmark.startswith(HELDOUT) and not prediction.sample:
            by_task.setdefault(prediction.task_type, []).append(prediction)
    chosen = [p for task in sorted(by_task) for p in _alternate(by_task[task], per_task)]
    wanted = {prediction.sample_id for prediction in chosen}
    before = {
        prediction.sample_id: prediction
        for prediction in iter_predictions(inputs[f"evaluate_{FIRST_MODEL}"])
        if prediction.mode == FULL_CONTEXT and prediction.sample_id in wanted and not prediction.sample
    }
    return [_example(last, before.get(last.sample_id), links) for last in chosen]


def failure_examples(failures: Sequence[Failure], links: Mapping[str, str]) -> list[Example]:
    """The failures as examples to read."""
    return [
        replace(_example(failure.prediction, None, links), kind=failure.kind, line=failure.line) for failure in failures
    ]


def _alternate(predictions: list[Prediction], count: int) -> list[Prediction]:
    """Good, bad, good, ... in order of sample id; the rest of one kind where the other runs out."""
    ordered = sorted(predictions, key=lambda prediction: prediction.sample_id)
    good = [p for p in ordered if p.score >= 0.5]
    bad = [p for p in ordered if p.score < 0.5]
    mixed = [p for pair in zip(good, bad, strict=False) for p in pair]
    shorter = min(len(good), len(bad))
    return (mixed + good[shorter:] + bad[shorter:])[:count]


def _example(last: Prediction, first: Prediction | None, links: Mapping[str, str]) -> Example:
    answers = [(FIRST_MODEL, first)] if first is not None else []
    answers.append((LAST_MODEL, last))
    gold = last.gold if isinstance(last.gold, str) else "; ".join(last.gold)
    return Example(
        task_type=last.task_type,
        sample_id=readable(last.sample_id, 80),
        question=readable(last.question),
        gold=readable(gold, 300),
        answers=tuple(
            Answer(model, readable(p.prediction, 400), p.score, links[f"evaluate_{model}/predictions.jsonl"])
            for model, p in answers
        ),
    )
