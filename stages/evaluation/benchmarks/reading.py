"""Questions to given passages, scored as the paper scores its QA sets: max(cover exact match, judge), F1 and EM beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from stages.common.prompts import defuse_tags, opening_tag
from stages.common.tokens import Message
from stages.evaluation.base import Question
from stages.evaluation.judging import usual_judge
from stages.evaluation.scoring import covers, exact_match, token_f1
from stages.rewards.hybrid import without_question

SHORT_ANSWER = "Answer with the name or phrase only."
_ANSWER_TOKENS = 64


def passages(titled: Sequence[tuple[str, str]]) -> str:
    """(title, text) pairs as one context, tags inside them broken."""
    return "\n".join(f"{opening_tag(title)}\n{defuse_tags(text)}\n</document>" for title, text in titled)


def reading_prompt(question: str, answer_form: str, context: str) -> list[Message]:
    """Documents, question, form of the answer, as in training."""
    return [
        {"role": "user", "content": f"<documents>\n{context}\n</documents>\n\n{defuse_tags(question)}\n{answer_form}"}
    ]


def position_of(context: str, marks: Sequence[str]) -> float | None:
    """Where the first of the texts begins in the context, 0 to 1; None if none of them is there."""
    places = [place for mark in marks if mark and (place := context.find(mark)) >= 0]
    return min(places) / len(context) if places and context else None


def qa_question(
    *,
    benchmark: str,
    name: str,
    question: str,
    golds: Sequence[str],
    context: Callable[[], str],
    answer_form: str = SHORT_ANSWER,
    task_type: str = "multi_hop",
    answer_tokens: int = _ANSWER_TOKENS,
    more: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Question:
    """A free-text question. ValueError if there is no gold answer that has letters or digits, or no question."""
    golds = [gold for gold in golds if isinstance(gold, str) and gold.strip()]
    if not golds:
        raise ValueError("no gold answer")
    if not question.strip():
        raise ValueError("no question")
    return Question(
        benchmark=benchmark,
        id=name,
        task_type=task_type,
        question=question,
        answer_form=answer_form,
        gold=golds[0] if len(golds) == 1 else golds,
        context=context,
        prompt=partial(reading_prompt, question, answer_form),
        metric="cover_exact_match",
        score=partial(_covers, golds, question, answer_form),
        more_metrics={
            "f1": partial(token_f1, golds=golds),
            "exact_match": partial(exact_match, golds=golds),
            **(more or {}),
        },
        answer_tokens=answer_tokens,
        judge=usual_judge(question, golds),
        **rest,
    )


def _covers(golds: Sequence[str], question: str, answer_form: str, response: str) -> float:
    """Cover exact match; what repeats question or form earns nothing either ("it" is in "with")."""
    return covers(without_question(response, answer_form), golds, question)
