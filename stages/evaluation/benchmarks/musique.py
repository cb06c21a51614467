"""MuSiQue (Trivedi et al. 2022): two to four hops over 20 paragraphs. Official: EM and F1, best over the aliases."""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import passages, position_of, qa_question
from stages.evaluation.rows import questions_of
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("musique",), hub="dgslibisey/MuSiQue", split="validation")


def _parse(row: dict[str, Any]) -> Question:
    if not row.get("answerable", True):
        raise ValueError("it has no answer")
    context = passages([(part["title"], part["paragraph_text"]) for part in row["paragraphs"]])
    evidence = [part["paragraph_text"][:200] for part in row["paragraphs"] if part.get("is_supporting")]
    return qa_question(
        benchmark="musique",
        name=str(row["id"]),
        question=row["question"],
        golds=[row["answer"], *row.get("answer_aliases", [])],
        context=partial(str, context),
        groups={"hops": str(row["id"])[0]} if str(row["id"])[:1].isdigit() else {},
        evidence_position=position_of(context, evidence),
    )


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, _parse, broken, request.limit)


MUSIQUE = Benchmark(
    name="musique",
    title="MuSiQue: 2-4 hops over 20 paragraphs",
    source="hub dgslibisey/MuSiQue (CC BY 4.0)",
    available=_SOURCE.available,
    load=_load,
)
