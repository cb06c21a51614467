"""LiveMath (google-deepmind/eval_hub): problems with a short final answer, no context; a stand-in for AIME."""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.common.text import final_answer
from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.rows import questions_of
from stages.evaluation.sources import RowSource
from stages.rewards.rules import numeric_match

_SOURCE = RowSource(folders=("live_math",))
_FORM = 'Think step by step and end with "Therefore, the answer is (the answer)".'
_ANSWER_TOKENS = 512


def _equal(response: str, gold: str) -> float:
    """Equal as numbers, or as LaTeX without blanks and dollar signs."""
    answer = final_answer(response)
    plain = answer.replace("$", "").replace(" ", "")
    return max(numeric_match(answer, gold), float(bool(plain) and plain == gold.replace("$", "").replace(" ", "")))


def _parse(row: dict[str, Any]) -> Question:
    question, gold = row["question"], str(row["answer"])
    if not gold.strip():
        raise ValueError("no answer")
    return Question(
        benchmark="live_math",
        id=str(row["id"]),
        task_type="math",
        question=question,
        answer_form=_FORM,
        gold=gold,
        context=str,
        prompt=lambda _: [{"role": "user", "content": f"{question}\n{_FORM}"}],
        metric="exact_match",
        score=partial(_equal, gold=gold),
        answer_tokens=_ANSWER_TOKENS,
        groups={"difficulty": str(row.get("difficulty", "unknown"))},
    )


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, _parse, broken, request.limit)


LIVE_MATH = Benchmark(
    name="live_math",
    title="LiveMath: competition problems with short answers",
    source="github google-deepmind/eval_hub (Apache-2.0, canary: never train on it)",
    available=_SOURCE.available,
    load=_load,
    modes=("closed_book",),
)
