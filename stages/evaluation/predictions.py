"""From kept answers to scored predictions. Nothing here asks a model, so a scorer that is mended can be applied again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stages.evaluation.base import Prediction, Question
from stages.evaluation.finished import Answer
from stages.evaluation.planning import Planned
from stages.evaluation.prompting import answer_part


def score_answers(planned: Planned, answers: Sequence[Answer]) -> list[Prediction]:
    """One prediction per sample, by the rules alone."""
    return [_prediction(planned, answer, number) for number, answer in enumerate(answers)]


def _prediction(planned: Planned, answer: Answer, number: int) -> Prediction:
    question = planned.question
    response = None if answer.failure is not None else answer_part(answer.text)
    rule = 0.0 if response is None else _checked(question, question.metric, question.score(response))
    return Prediction(
        benchmark=question.benchmark,
        mode=planned.mode,
        sample_id=question.id,
        sample=number,
        task_type=question.task_type,
        question=question.question,
        gold=question.gold,
        prediction="" if response is None else response.strip(),
        metric=question.metric,
        score=rule,
        rule_score=rule,
        metrics={
            name: 0.0 if response is None else _checked(question, name, score(response))
            for name, score in question.more_metrics.items()
        },
        judge=None,
        failure=answer.failure,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        response_tokens=answer.response_tokens,
        context_tokens=None if planned.mode == "closed_book" else answer.context_tokens,
        context_cut=answer.context_cut,
        turns=answer.turns,
        evidence_position=question.evidence_position,
        groups=dict(question.groups),
    )


def _checked(question: Question, metric: str, value: float) -> float:
    assert 0.0 <= value <= 1.0, f"{question.benchmark}: {metric} of {question.id} is {value}, not in [0, 1]"
    return float(value)


def to_be_judged(
    planned: Sequence[Planned], answers: Sequence[Sequence[Answer] | None]
) -> Iterator[tuple[int, int, Question, str]]:
    """(position, sample, question, response) of every answer that a judge may see."""
    for position, (item, given) in enumerate(zip(planned, answers, strict=True)):
        if item.question.judge is None or given is None:
            continue
        for number, answer in enumerate(given):
            response = None if answer.failure is not None else answer_part(answer.text)
            if response is not None:
                yield position, number, item.question, response
