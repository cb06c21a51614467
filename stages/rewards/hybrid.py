"""The reward of a response: the rule that fits the kind of answer, applied to the final answer (recipe section 3).

The paper takes max(rule, LLM judge) for free text: `HybridReward` does, `reward` is the rule alone.
Departures, all against hacks that cover exact match invites: a response that repeats the question has the question cut
out before it is scored, and a free-text answer may be at most `MAX_EXTRA_WORDS` words longer than the gold answer, so
that copying the documents earns nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol

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
    if _unfinished(response):
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


class AnswerJudge(Protocol):
    """Decides in the background whether an answer means the same as the gold answer (stages/rewards/judge.py)."""

    def submit(self, question: str, gold: str, prediction: str) -> Future[Literal["yes", "no", "failed"]]:
        """Begin to judge."""
        ...

    def take_metrics(self) -> dict[str, float]:
        """`judge/*` since the last call; they may differ between equal runs."""
        ...

    def close(self) -> None:
        """End."""
        ...


@dataclass(frozen=True)
class Scored:
    """A response's reward in [0, 1]. counters: judge_asked, judge_yes (rule and judge disagree), judge_failed."""

    reward: float
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["yes", "no", "failed"] | None:
        """What the judge said; None if it was not asked."""
        if not self.counters.get("judge_asked"):
            return None
        if self.counters["judge_failed"]:
            return "failed"
        return "yes" if self.counters["judge_yes"] else "no"


class HybridReward:
    """max(rule, judge): the judge is asked about free-text answers for which the rule gives nothing.

    Answers that no judge could mend are not sent: empty ones, ones that only repeat the question, and floods of words.
    A judge that fails leaves the rule's score, and is counted.
    """

    def __init__(self, judge: AnswerJudge | None = None) -> None:
        self._judge = judge

    async def score(self, sample: QAPair, responses: Sequence[str]) -> list[Scored]:
        """Scores in order. Other coroutines, and an engine that blocks the event loop, go on while the judge works."""
        rules = [reward(sample, response) for response in responses]
        asked = [
            self._begin(sample, response) if rule == 0.0 else None
            for rule, response in zip(rules, responses, strict=True)
        ]
        return [
            Scored(rule) if future is None else _judged(rule, await asyncio.wrap_future(future))
            for rule, future in zip(rules, asked, strict=True)
        ]

    def _begin(self, sample: QAPair, response: str) -> Future[Literal["yes", "no", "failed"]] | None:
        if self._judge is None or sample.answer_kind is not AnswerKind.TEXT or _unfinished(response):
            return None
        prediction, gold = without_question(final_answer(response), sample.question), _one(sample)
        if not normalise(prediction) or _too_long(prediction, gold):
            return None
        return self._judge.submit(sample.question, gold, prediction)

    def take_metrics(self) -> dict[str, float]:
        """The judge's `judge/*` since the last call; empty without a judge."""
        return self._judge.take_metrics() if self._judge is not None else {}

    def close(self) -> None:
        """End the judge."""
        if self._judge is not None:
            self._judge.close()


def _judged(rule: float, verdict: Literal["yes", "no", "failed"]) -> Scored:
    counters = {"judge_asked": 1, "judge_yes": int(verdict == "yes"), "judge_failed": int(verdict == "failed")}
    return Scored(max(rule, float(verdict == "yes")), counters)


def without_question(prediction: str, question: str) -> str:
    """The prediction with every repetition of the question removed (blanks and case do not matter)."""
    words = question.split()
    if not words:
        return prediction
    pattern = r"\s+".join(re.escape(word) for word in words)
    return re.sub(pattern, " ", prediction, flags=re.IGNORECASE).strip()


def _free_text(prediction: str, gold: str) -> float:
    """Cover exact match, within the length limit."""
    return 0.0 if _too_long(prediction, gold) else cover_exact_match(prediction, gold)


def _too_long(prediction: str, gold: str) -> bool:
    return len(normalise(prediction).split()) > len(normalise(gold).split()) + MAX_EXTRA_WORDS


def _unfinished(response: str) -> bool:
    """True for reasoning that was cut off: there is no answer."""
    return "<think>" in response and "</think>" not in response


def _one(sample: QAPair) -> str:
    if not isinstance(sample.answer, str):
        raise InputError(f"sample {sample.id}: answer_kind {sample.answer_kind} needs one answer, not a list.")
    return sample.answer


def _several(sample: QAPair) -> list[str]:
    if isinstance(sample.answer, str):
        raise InputError(f"sample {sample.id}: answer_kind set needs a list of answers, not one text.")
    return sample.answer
