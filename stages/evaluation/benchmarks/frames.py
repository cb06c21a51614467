"""FRAMES (Krishna et al. 2024): multi-hop questions over Wikipedia pages. Scored by max(cover exact match, judge).

Rows that hold the pages (`context`, or `wiki_links` with their texts in `pages`) are asked in every mode; rows without
them, as in the published table, only make sense closed book, and say so by an empty context.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import qa_question
from stages.evaluation.rows import questions_of
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("frames",), patterns=("*.jsonl", "*.parquet"), hub="google/frames-benchmark")


def _parse(number: dict[str, int], row: dict[str, Any]) -> Question:
    number["row"] += 1
    question, answer = row.get("question") or row["Prompt"], row.get("answer") or row["Answer"]
    reasoning = row.get("reasoning_types")
    return qa_question(
        benchmark="frames",
        name=str(row.get("id") or f"frames-{row.get('Unnamed: 0', number['row'])}"),
        question=question,
        golds=[answer],
        context=partial(str, row.get("context") or ""),
        groups={"reasoning": str(reasoning)} if reasoning else {},
    )


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, partial(_parse, {"row": 0}), broken, request.limit)


FRAMES = Benchmark(
    name="frames",
    title="FRAMES: multi-hop questions, closed book (the pages are not in the table)",
    source="hub google/frames-benchmark, 824 questions (Apache-2.0)",
    available=_SOURCE.available,
    load=_load,
    modes=("closed_book",),
)
