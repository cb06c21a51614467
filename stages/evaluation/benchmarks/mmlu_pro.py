"""MMLU-Pro (Wang et al. 2024): up to ten options, no context. Accuracy overall and by category.

Zero-shot with reasoning in the official words; the harness's own form has five worked examples a category before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.rows import questions_of
from stages.evaluation.scoring import mmlu_pro_letter
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("mmlu_pro",), hub="TIGER-Lab/MMLU-Pro")
_LETTERS = "ABCDEFGHIJ"
_FORM = 'Think step by step and then finish your answer with "the answer is (X)" where X is the correct letter choice.'
_ANSWER_TOKENS = 512


def _parse(row: dict[str, Any]) -> Question:
    options = [option for option in row["options"] if option != "N/A"]
    gold = row["answer"].strip()
    if len(gold) != 1 or gold not in _LETTERS[: len(options)]:
        raise ValueError(f"the answer {gold!r} is none of {len(options)} options")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))
    asked = (
        f"The following is a multiple choice question about {row['category']}.\n\n"
        f"Question: {row['question']}\nOptions:\n{listed}"
    )
    return Question(
        benchmark="mmlu_pro",
        id=str(row["question_id"]),
        task_type="multiple_choice",
        question=asked,
        answer_form=_FORM,
        gold=gold,
        context=str,
        prompt=lambda _: [{"role": "user", "content": f"{asked}\n\n{_FORM}"}],
        metric="accuracy",
        score=partial(mmlu_pro_letter, gold=gold, question=asked),
        answer_tokens=_ANSWER_TOKENS,
        groups={"category": str(row["category"])},
    )


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, _parse, broken, request.limit)


MMLU_PRO = Benchmark(
    name="mmlu_pro",
    title="MMLU-Pro: knowledge, up to ten options",
    source="hub TIGER-Lab/MMLU-Pro (MIT)",
    available=_SOURCE.available,
    load=_load,
    modes=("closed_book",),
)
