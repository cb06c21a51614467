"""BFCL v4, memory (Gorilla): what a user said in earlier conversations of a scenario, asked in a fresh context.

Official: the earlier conversations are fed first, with memory tools, then the question with that store. Here they are
the context (full_context), or the memory agent's document (its own memory takes the place of the tools): the scores are
not comparable with the leaderboard, the scoring rule is the official one.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from stages.evaluation.base import Benchmark, BrokenRow, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import position_of, reading_prompt
from stages.evaluation.rows import questions_of, read_rows
from stages.evaluation.scoring import bfcl_memory, guarded
from stages.evaluation.sources import RowSource

_QUESTIONS = RowSource(folders=("bfcl_v4_memory",), patterns=("questions_*.jsonl",))
_FORM = "Answer as briefly as you can."
_ANSWER_TOKENS = 64


def _conversations(rows: list[dict[str, Any]]) -> str:
    """The user's turns of all prerequisite conversations, in order."""
    parts = []
    for row in rows:
        turns = [f"{message['role']}: {message['content']}" for turn in row["question"] for message in turn]
        parts.append(f"[{row.get('topic', 'Conversation')}]\n" + "\n".join(turns))
    return "\n\n".join(parts)


def _parse(context: str, row: dict[str, Any]) -> Question:
    question = row["question"][0][0]["content"]
    golds = [str(gold) for gold in row["ground_truth"]]
    if not any(re.search(r"\w", gold) for gold in golds):
        raise ValueError("no gold answer")
    score = partial(bfcl_memory, golds=golds)
    return Question(
        benchmark="bfcl_memory",
        id=str(row["id"]),
        task_type="dialogue_memory",
        question=question,
        answer_form=_FORM,
        gold=golds,
        context=partial(str, context),
        prompt=partial(reading_prompt, question, _FORM),
        metric="accuracy",
        score=score,
        more_metrics={"guarded": partial(guarded, score=score, golds=golds, question=question)},
        answer_tokens=_ANSWER_TOKENS,
        groups={"scenario": str(row.get("scenario", "unknown"))},
        evidence_position=position_of(context, [str(row.get("source", "")).strip(". ")]),
    )


def _load(request: LoadRequest) -> Loaded:
    questions: list[Question] = []
    broken: list[BrokenRow] = []
    for path in _QUESTIONS.files(request):
        before = path.with_name(path.name.replace("questions_", "prereq_"))
        if not before.is_file():
            broken.append(BrokenRow(path.name, f"{before.name} is not beside it"))
            continue
        earlier, bad = read_rows(before)
        rows, more_bad = read_rows(path)
        try:
            context = _conversations([row for _, row in earlier])
        except (KeyError, TypeError, IndexError) as error:
            broken.append(BrokenRow(before.name, f"no conversations: {error}"))
            continue
        loaded = questions_of(rows, partial(_parse, context), [*bad, *more_bad])
        questions += loaded.questions
        broken += loaded.broken
    return Loaded(questions[: request.limit], broken)


BFCL_MEMORY = Benchmark(
    name="bfcl_memory",
    title="BFCL v4 memory: what a user said in earlier conversations",
    source="github ShishirPatil/gorilla (Apache-2.0), prereq_*.jsonl and questions_*.jsonl",
    available=_QUESTIONS.available,
    load=_load,
)
