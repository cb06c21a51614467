"""HotpotQA (Yang et al. 2018), distractor setting: two hops over ten paragraphs. Official: EM and F1."""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import passages, position_of, qa_question
from stages.evaluation.rows import questions_of
from stages.evaluation.scoring import hotpot_f1
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("hotpotqa",), hub="hotpotqa/hotpot_qa:distractor", split="validation")


def _parse(row: dict[str, Any]) -> Question:
    given = row["context"]
    if isinstance(given, dict):  # the hub's form: columns
        given = list(zip(given["title"], given["sentences"], strict=True))
    facts = row.get("supporting_facts") or []
    titles = facts["title"] if isinstance(facts, dict) else [fact[0] for fact in facts]
    context = passages([(title, "".join(sentences)) for title, sentences in given])
    evidence = ["".join(sentences)[:200] for title, sentences in given if title in titles]
    return qa_question(
        benchmark="hotpotqa",
        name=str(row.get("_id") or row["id"]),
        question=row["question"],
        golds=[row["answer"]],
        context=partial(str, context),
        more={"f1": partial(hotpot_f1, golds=[row["answer"]])},
        groups={key: str(row[key]) for key in ("type", "level") if key in row},
        evidence_position=position_of(context, evidence),
    )


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, _parse, broken, request.limit)


HOTPOTQA = Benchmark(
    name="hotpotqa",
    title="HotpotQA, distractor setting: 2 hops over 10 paragraphs",
    source="hub hotpotqa/hotpot_qa, distractor (CC BY-SA 4.0)",
    available=_SOURCE.available,
    load=_load,
)
