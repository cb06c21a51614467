"""Numbers from financial pages, scored as DocMath-Eval does: DocMath itself, and TAT-QA and ConvFinQA in its form.

The text after "the answer is" is read (QwenLong-L1's form); DocMath-Eval's own tolerance decides, which forgives sign and
powers of ten. Beside it stands our strict rule, in which sign and magnitude count.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.common.text import final_answer
from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import reading_prompt
from stages.evaluation.rows import questions_of
from stages.evaluation.sources import RowSource
from stages.rewards.docmath import docmath_match, stated_value
from stages.rewards.rules import numbers_in, numeric_match

_FORM = 'Think step by step and end with "Therefore, the answer is (the number)".'
_ANSWER_TOKENS = 256
_TATQA = RowSource(folders=("tatqa",), patterns=("*.json*",), hub="next-tat/TAT-QA", split="validation")
_CONVFINQA = RowSource(folders=("convfinqa",))
_SUBSETS = ("simpshort", "simplong", "compshort", "complong")
_DOCMATH = RowSource(
    folders=("docmath",),
    patterns=("*.jsonl", "*.parquet", "*.json"),
    hub="yale-nlp/DocMath-Eval",
    split="+".join(f"{subset}_testmini" for subset in _SUBSETS),
)
_ARITHMETIC_TYPES = ("arithmetic", "count")


def _accepts(response: str, gold: str) -> float:
    """DocMath-Eval's verdict; what is no number is wrong, although the original reads it as 0, the gold of many changes."""
    answer = final_answer(response)
    return docmath_match(answer, gold) if stated_value(answer) is not None else 0.0


def _strict(response: str, gold: str, question: str) -> float:
    return numeric_match(final_answer(response), gold, numbers_in(question))


def _numeric(benchmark: str, name: str, question: str, gold: str, context: str, **rest: Any) -> Question:
    if stated_value(gold) is None:
        raise ValueError(f"the answer {gold[:40]!r} is neither a number nor yes or no")
    return Question(
        benchmark=benchmark,
        id=name,
        task_type="numerical",
        question=question,
        answer_form=_FORM,
        gold=gold,
        context=partial(str, context),
        prompt=partial(reading_prompt, question, _FORM),
        metric="docmath",
        score=partial(_accepts, gold=gold),
        more_metrics={"numeric_match": partial(_strict, gold=gold, question=question)},
        answer_tokens=_ANSWER_TOKENS,
        **rest,
    )


def _tatqa_row(row: dict[str, Any]) -> list[Question]:
    """The arithmetic and counting questions of one table; the others ask for text."""
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in row["table"]["table"])
    texts = [part["text"] for part in sorted(row["paragraphs"], key=lambda part: part["order"])]
    context = "\n\n".join([table, *texts])
    return [
        _numeric(
            "docmath/tatqa",
            entry["uid"],
            entry["question"],
            f"{entry['answer']} {entry['scale'] or ''}".strip(),
            context,
            groups={"scale": entry["scale"] or "none"},
        )
        for entry in row["questions"]
        if entry["answer_type"] in _ARITHMETIC_TYPES
    ]


def _convfinqa_row(row: dict[str, Any]) -> Question:
    """The last turn; the earlier ones are part of the question."""
    *earlier, last = row["questions"]
    question = last if not earlier else f"{last}\n(Asked before: {' '.join(earlier)})"
    context = f"{row['text']}\n\n{row['table']}"
    groups = {"turns": str(len(row["questions"]))}
    return _numeric("docmath/convfinqa", row["id"], question, str(row["answer"]), context, groups=groups)


def _docmath_row(row: dict[str, Any]) -> Question:
    """The subset (short or long document, simple or complex reasoning) opens the id: complong-testmini-17."""
    context = "\n\n".join(row["paragraphs"])
    name = str(row["question_id"])
    subset = name.split("-")[0]
    groups = {"subset": subset} if subset in _SUBSETS else {}
    return _numeric("docmath", name, row["question"], str(row["ground_truth"]), context, groups=groups)


def _load(source: RowSource, parse: Any, request: LoadRequest) -> Loaded:
    rows, broken = source.rows(request)
    return questions_of(rows, parse, broken, request.limit)


DOCMATH = Benchmark(
    name="docmath",
    title="DocMath-Eval testmini: numbers from financial documents",
    source="hub yale-nlp/DocMath-Eval (MIT)",
    available=_DOCMATH.available,
    load=partial(_load, _DOCMATH, _docmath_row),
)
TATQA = Benchmark(
    name="tatqa",
    title="TAT-QA, arithmetic and counting questions, in DocMath's form",
    source="hub next-tat/TAT-QA (CC BY 4.0)",
    available=_TATQA.available,
    load=partial(_load, _TATQA, _tatqa_row),
)
CONVFINQA = Benchmark(
    name="convfinqa",
    title="ConvFinQA, last turns, in DocMath's form",
    source="github czyssrs/ConvFinQA (MIT)",
    available=_CONVFINQA.available,
    load=partial(_load, _CONVFINQA, _convfinqa_row),
)
