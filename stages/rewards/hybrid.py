"""The reward of a response: the rule that fits the kind of answer, applied to the final answer (recipe section 3).

The paper takes max(rule, LLM judge) for free text; `reward` is where a judge will join. Until then the rule is all.
Departures, all against hacks that cover exact match invites: a response that repeats the question has the question cut
out before it is scored, and a free-text answer may be at most `MAX_EXTRA_WORDS` words longer than the gold answer, so
that copying the documents earns nothing.
"""

from __future__ import annotations

import re

from stages.common.errors import InputError
from stages.common.records import AnswerKind, QAPair
from stages.common.text import final_answer, strip_reasoning
from stages.rewards.rules import (
    cover_exact_match,
    multiple_choice,
    normalise,
    numbers_in,
    numeric_match,
    sequence_match_ratio,
    set_f1,
)

MAX_EXTRA_WORDS = 100


def reward(sample: QAPair, response: str) -> float:
    """Score of a whole response in [0, 1]. Deterministic; needs no model.

    A response that opens `<think>` and never closes it holds no answer: 0. InputError if the sample's answer does not
    fit its answer_kind.
    """
    if "<think>" in response and "</think>" not in response:
        return 0.0
    if sample.answer_kind is AnswerKind.SEQUENCE:
        prefix = sample.proof.get("prefix")
        return sequence_match_ratio(
            strip_reasoning(response), _one(sample).strip(), prefix if isinstance(prefix, str) else None
        )
    prediction = without_question(final_answer(response), sample.question)
    if not prediction:
        return 0.0
    match sample.answer_kind:
        case AnswerKind.TEXT:
            return _free_text(prediction, _one(sample))
        case AnswerKind.NUMBER:
            return numeric_match(prediction, _one(sample), numbers_in(sample.question))
        case AnswerKind.LETTER:
            return multiple_choice(prediction, _one(sample))
        case AnswerKind.SET:
            return set_f1(prediction, _several(sample))


def without_question(prediction: str, question: str) -> str:
    """The prediction with every repetition of the question removed (blanks and case do not matter)."""
    words = question.split()
    if not words:
        return prediction
    pattern = r"\s+".join(re.escape(word) for word in words)
    return re.sub(pattern, " ", prediction, flags=re.IGNORECASE).strip()


def _free_text(prediction: str, gold: str) -> float:
    """Cover exact match, within the length limit."""
    if len(normalise(prediction).split()) > len(normalise(gold).split()) + MAX_EXTRA_WORDS:
        return 0.0
    return cover_exact_match(prediction, gold)


def _one(sample: QAPair) -> str:
    if not isinstance(sample.answer, str):
        raise InputError(f"sample {sample.id}: answer_kind {sample.answer_kind} needs one answer, not a list.")
    return sample.answer


def _several(sample: QAPair) -> list[str]:
    if isinstance(sample.answer, str):
        raise InputError(f"sample {sample.id}: answer_kind set needs a list of answers, not one text.")
    return sample.answer
