"""LongBench v2 (Bai et al. 2024): four options on long real texts. Accuracy, by difficulty and by length.

The official zero-shot form: the text between tags, the choices, "The correct answer is (insert answer here)". Nothing
but that sentence counts. Contexts over the window lose their middle. `longbench_v2_cot` is the official form with
reasoning: a first call thinks step by step, a second one gets that reasoning without the text and names the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from stages.common.tokens import Message
from stages.evaluation.base import Benchmark, FollowUp, Loaded, LoadRequest, Question
from stages.evaluation.rows import questions_of
from stages.evaluation.scoring import longbench_v2_letter
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("longbench_v2",), hub="zai-org/LongBench-v2", split="train")
_FORM = 'Format your response as follows: "The correct answer is (insert answer here)".'
_ANSWER_TOKENS = 128
_THINK = "Let’s think step by step:"
_REASONING_TOKENS = 1_024


def _prompt(asked: str, context: str) -> list[Message]:
    content = (
        "Please read the following text and answer the question below.\n\n"
        f"<text>\n{context.strip()}\n</text>\n\n{asked}\n\n{_FORM}"
    )
    return [{"role": "user", "content": content}]


def _reasoning_prompt(asked: str, context: str) -> list[Message]:
    content = (
        "Please read the following text and answer the questions below.\n\n"
        f"<text>\n{context.strip()}\n</text>\n\n{asked}\n\n{_THINK}"
    )
    return [{"role": "user", "content": content}]


def _extraction_prompt(asked: str, reasoning: str) -> list[Message]:
    content = (
        "Please read the following text and answer the questions below.\n\n"
        f"The text is too long and omitted here.\n\n{asked}\n\n{_THINK} {reasoning.strip()}\n\n"
        f"Based on the above, what is the single, most likely answer choice? {_FORM}"
    )
    return [{"role": "user", "content": content}]


def _parse(row: dict[str, Any]) -> Question:
    gold = row["answer"].strip()
    if gold not in ("A", "B", "C", "D"):
        raise ValueError(f"the answer {gold!r} is no letter A to D")
    if not row["context"].strip():
        raise ValueError("no context")
    choices = "\n".join(f"({letter}) {row[f'choice_{letter}'].strip()}" for letter in "ABCD")
    asked = f"What is the correct answer to this question: {row['question'].strip()}\nChoices:\n{choices}"
    return Question(
        benchmark="longbench_v2",
        id=str(row["_id"]),
        task_type="multiple_choice",
        question=asked,
        answer_form=_FORM,
        gold=gold,
        context=partial(str, row["context"]),
        prompt=partial(_prompt, asked),
        metric="accuracy",
        score=partial(longbench_v2_letter, gold=gold),
        answer_tokens=_ANSWER_TOKENS,
        groups={key: str(row[key]) for key in ("difficulty", "length", "domain") if key in row},
    )


def _parse_reasoning(row: dict[str, Any]) -> Question:
    """The same question in two calls; what the second one says is scored."""
    question = _parse(row)
    return replace(
        question,
        benchmark="longbench_v2_cot",
        answer_form=_THINK,
        prompt=partial(_reasoning_prompt, question.question),
        answer_tokens=_REASONING_TOKENS,
        follow_up=FollowUp(
            messages=partial(_extraction_prompt, question.question),
            answer_tokens=_ANSWER_TOKENS,
        ),
    )


def _load(parse: Callable[[dict[str, Any]], Question], request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, parse, broken, request.limit)


LONGBENCH_V2 = Benchmark(
    name="longbench_v2",
    title="LongBench v2: multiple choice on texts of 8K to 2M words",
    source="hub zai-org/LongBench-v2, 503 questions (MIT)",
    available=_SOURCE.available,
    load=partial(_load, _parse),
)
LONGBENCH_V2_COT = Benchmark(
    name="longbench_v2_cot",
    title="LongBench v2 with reasoning: a second call names the letter",
    source="hub zai-org/LongBench-v2, 503 questions (MIT)",
    available=_SOURCE.available,
    load=partial(_load, _parse_reasoning),
    modes=("full_context",),
)
