"""QMSum (Zhong et al. 2021): query-based summaries of meetings. Official: ROUGE-L (as in LongBench v1)."""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.common.prompts import defuse_tags
from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import reading_prompt
from stages.evaluation.judging import usual_judge
from stages.evaluation.rows import questions_of
from stages.evaluation.scoring import rouge_l, token_f1
from stages.evaluation.sources import RowSource
from stages.rewards.hybrid import without_question

_SOURCE = RowSource(folders=("qmsum",), patterns=("*.jsonl",))
_FORM = "Answer in a few sentences."
_ANSWER_TOKENS = 512  # as LongBench v1


def _rouge(query: str, gold: str, response: str) -> float:
    return rouge_l(without_question(response, query), [gold])


def _parse(row: dict[str, Any]) -> list[Question]:
    lines = [f"{turn['speaker']}: {defuse_tags(turn['content'])}" for turn in row["meeting_transcripts"]]
    context = "\n".join(lines)
    made = []
    for kind in ("general", "specific"):
        for number, entry in enumerate(row[f"{kind}_query_list"]):
            query, gold = entry["query"], entry["answer"]
            if not query.strip() or not gold.strip():
                raise ValueError("a query without words or answer")
            spans = entry.get("relevant_text_span") or []
            made.append(
                Question(
                    benchmark="qmsum",
                    id=f"{row['meeting_id']}-{kind}-{number}",
                    task_type="summary",
                    question=query,
                    answer_form=_FORM,
                    gold=gold,
                    context=partial(str, context),
                    prompt=partial(reading_prompt, query, _FORM),
                    metric="rouge_l",
                    score=partial(_rouge, query, gold),
                    more_metrics={"f1": partial(token_f1, golds=[gold])},
                    answer_tokens=_ANSWER_TOKENS,
                    judge=usual_judge(query, gold),
                    groups={"query": kind},
                    evidence_position=int(spans[0][0]) / len(lines) if spans and lines else None,
                )
            )
    return made


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, _parse, broken, request.limit)


QMSUM = Benchmark(
    name="qmsum",
    title="QMSum: what was said about something in a meeting",
    source="github Yale-LILY/QMSum (MIT)",
    available=_SOURCE.available,
    load=_load,
)
