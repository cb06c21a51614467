"""The project's own samples as questions: the same prompts as in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stages.common.prompts import answer_instruction, closed_book_messages, core_question, full_context_messages
from stages.common.records import AnswerKind, Sample
from stages.evaluation.base import Context, Question, Score
from stages.evaluation.judging import usual_judge
from stages.evaluation.scoring import guarded
from stages.rewards.hybrid import reward

# Metric by kind of answer; a task type with several kinds is scored by "rule_score". The first three are 0 or 1.
METRICS = {
    AnswerKind.TEXT: "cover_exact_match",
    AnswerKind.NUMBER: "numeric_match",
    AnswerKind.LETTER: "accuracy",
    AnswerKind.SEQUENCE: "sequence_match_ratio",
    AnswerKind.SET: "set_f1",
}

_SHORT_ANSWER_TOKENS, _LIST_TOKENS = 64, 256
_CHARACTERS_PER_TOKEN = 3  # fewer than prose has, so that a text that is to be repeated fits


def sample_question(
    sample: Sample,
    *,
    benchmark: str,
    context: Callable[[], Context],
    metric: str,
    evidence_position: float | None,
    score: Score | None = None,
) -> Question:
    """A Sample under the name of a benchmark.

    score: by default the reward of training, and free text is judged too. A score of its own is one that looks for the gold
    anywhere, so `guarded` stands beside it.
    """
    judged = score is None and sample.answer_kind is AnswerKind.TEXT and isinstance(sample.answer, str)
    return Question(
        benchmark=benchmark,
        id=sample.id,
        task_type=sample.task_type.value,
        question=core_question(sample),
        answer_form=answer_instruction(sample),
        gold=sample.answer,
        context=context,
        prompt=partial(full_context_messages, sample),
        closed_book=partial(closed_book_messages, sample),
        metric=metric,
        score=score or partial(reward, sample),
        more_metrics=_guarded(sample, score) if score is not None else {},
        answer_tokens=_answer_tokens(sample),
        judge=usual_judge(sample.question, str(sample.answer)) if judged else None,
        evidence_position=evidence_position,
        context_tokens=sample.context_tokens,
    )


def _guarded(sample: Sample, score: Score) -> dict[str, Score]:
    golds = [sample.answer] if isinstance(sample.answer, str) else sample.answer
    return {"guarded": partial(guarded, score=score, golds=golds, question=core_question(sample))}


def _answer_tokens(sample: Sample) -> int:
    """Room for the answer: short ones and a few words around them, lists, or the text that is to be repeated."""
    if sample.answer_kind is AnswerKind.SEQUENCE:
        return _SHORT_ANSWER_TOKENS + len(str(sample.answer)) // _CHARACTERS_PER_TOKEN
    return _LIST_TOKENS if sample.answer_kind is AnswerKind.SET else _SHORT_ANSWER_TOKENS
