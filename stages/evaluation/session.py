"""One model evaluated: ask, judge, score, write. The stage of the DAG and `longfuse eval` are both thin around this."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stages.common.chat_client import OpenAIChat
from stages.common.storage import write_json, write_jsonl
from stages.evaluation.aggregate import score_rows
from stages.evaluation.answering import OnRead
from stages.evaluation.asking import OpenEngine, Progress, ask_all
from stages.evaluation.base import BrokenRow, Prediction
from stages.evaluation.config import AskSettings
from stages.evaluation.finished import FinishedAnswers
from stages.evaluation.judging import judge_all, with_verdict
from stages.evaluation.planning import Planned
from stages.evaluation.predictions import score_answers, to_be_judged
from stages.memory.query import split_query
from stages.memory.query_model import split_by_model

_LISTED_ROWS = 20  # broken rows that are named one by one


@dataclass(frozen=True)
class Evaluation:
    """Predictions in the order of the plan, rows of the score table, and what could not be asked."""

    predictions: list[Prediction]
    rows: list[dict[str, Any]]
    asked_now: int = 0  # questions whose answers were not kept from an earlier run
    unanswered: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)  # benchmark -> reason
    broken: Mapping[str, Sequence[BrokenRow]] = field(default_factory=dict)

    def with_gaps(self, skipped: Mapping[str, str], broken: Mapping[str, Sequence[BrokenRow]]) -> Evaluation:
        """The same, with what a selection left out."""
        return replace(self, skipped=skipped, broken=broken)


def answers_file(state_dir: Path, model: str, settings: AskSettings) -> Path:
    """Where the answers of a model under these settings are kept; `model` is any text that changes with the model."""
    digest = hashlib.sha256(f"{model}\x1f{settings.model_dump_json()}".encode()).hexdigest()
    return state_dir / f"answers-{digest[:16]}.jsonl"


def evaluate_planned(
    open_engine: OpenEngine,
    planned: Sequence[Planned],
    settings: AskSettings,
    answers_path: Path,
    progress: Progress,
    *,
    concurrent: int = 0,
    judge: OpenAIChat | None = None,
    on_read: OnRead | None = None,
) -> Evaluation:
    """Ask what is not kept in `answers_path` already, and score everything.

    judge: client of the judge's endpoint, not yet entered; None: rules alone. on_read: gets the agent's trajectories.
    """
    to_ask = _split_by_model(planned, judge) if settings.agent.split_question == "model" else planned
    with FinishedAnswers(answers_path) as finished:
        asked = ask_all(open_engine, to_ask, settings, finished, progress, concurrent, on_read)
    scored = [
        [] if answers is None else score_answers(item, answers)
        for item, answers in zip(planned, asked.answers, strict=True)
    ]
    if judge is not None:
        places = list(to_be_judged(planned, asked.answers))
        judges = [(question.judge, response) for _, _, question, response in places if question.judge is not None]
        for (position, number, question, _), verdict in zip(places, judge_all(judge, judges), strict=True):
            alone = question.judge is not None and question.judge.decides_alone
            scored[position][number] = with_verdict(scored[position][number], verdict, alone)
    return Evaluation(
        predictions=[prediction for samples in scored for prediction in samples],
        rows=score_rows(planned, scored, asked.unanswered, settings.seed),
        asked_now=asked.asked_now,
        unanswered=len(asked.unanswered),
    )


def _split_by_model(planned: Sequence[Planned], chat: OpenAIChat | None) -> list[Planned]:
    """Questions for the agent, their formatting instructions moved to the form of the answer; the others as they are.

    chat: splits (by rules without it). Scores and files keep the question as it was.
    """
    places = [place for place, item in enumerate(planned) if item.mode == "memory_agent"]
    questions = [planned[place].question.question for place in places]
    if chat is None or not questions:
        parts = [split_query(question) for question in questions]
    else:
        parts = split_by_model(chat, questions)
    found = list(planned)
    for place, (core, form) in zip(places, parts, strict=True):
        question = planned[place].question
        answer_form = f"{form}\n{question.answer_form}".strip() if form else question.answer_form
        found[place] = replace(planned[place], question=replace(question, question=core, answer_form=answer_form))
    return found


def write_evaluation(out_dir: Path, model: str, evaluation: Evaluation) -> None:
    """predictions.jsonl and scores.json. Equal evaluations give equal bytes."""
    write_jsonl(out_dir / "predictions.jsonl", evaluation.predictions)
    write_json(
        out_dir / "scores.json",
        {
            "model": model,
            "scores": evaluation.rows,
            "skipped": [{"benchmark": name, "reason": reason} for name, reason in evaluation.skipped.items()],
            "broken_rows": [
                {
                    "benchmark": name,
                    "count": len(rows),
                    "rows": [{"where": row.where, "reason": row.reason} for row in rows[:_LISTED_ROWS]],
                }
                for name, rows in evaluation.broken.items()
                if rows
            ],
        },
    )
