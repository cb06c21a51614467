"""`longfuse eval`: any model folder or API on any benchmark, without the DAG.

    <out>/predictions.jsonl, scores.json    the same files as the evaluate stages write
    <out>/state/                            answers as they come (and replies of endpoints): run again to go on

Kept answers are found by model, settings and question: raising --limit or adding a benchmark asks only what is new.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from flows.eval_inputs import (
    DEFAULT_DATA,
    PAPER_WINDOW_TOKENS,
    agent_lengths,
    endpoint_config,
    open_documents,
)
from flows.eval_request import EvalRequest
from flows.eval_subject import Subject, open_subject
from flows.eval_table import score_table
from stages.common.chat import FailureReason
from stages.common.errors import ConfigError
from stages.common.storage import DocumentStore
from stages.evaluation.base import LoadRequest, Mode
from stages.evaluation.benchmarks.catalogue import by_name
from stages.evaluation.config import AskSettings
from stages.evaluation.finished import Answer
from stages.evaluation.planning import Planned
from stages.evaluation.selection import benchmark_named, select

if TYPE_CHECKING:
    from stages.common.tokens import ChatTokenizer

_UNANSWERED_EXIT = 3  # a service failed; running again asks what is left
_REASONING_TOKENS = 32_768
_PROGRESS_SECONDS = 5.0
_LENGTHS = (4_096, 8_192, 16_384, 32_768, 65_536, 122_880)  # of generated benchmarks, those that the window holds


def list_benchmarks(request: EvalRequest) -> list[str]:
    """Every benchmark with where its data come from, and whether they are at hand."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        documents = open_documents(request.corpus, Path(scratch))
        asked = _load_request(request, documents, None, PAPER_WINDOW_TOKENS)
        for benchmark in by_name().values():
            available = benchmark.available(asked)
            lines.append(f"{benchmark.name:<18}{'at hand' if available.at_hand else 'missing':<9}{benchmark.title}")
            lines.append(f"{'':<27}{available.reason}")
            lines.append(f"{'':<27}source: {benchmark.source}; modes: {', '.join(benchmark.modes)}")
    return lines


def evaluate_request(request: EvalRequest, say: Callable[[str], None]) -> int:
    """Evaluate, print the table, write the files; the exit code. UserError for flags or data that cannot be used."""
    from flows.stage import prepare_torch
    from stages.evaluation.session import answers_file, evaluate_planned, write_evaluation

    catalogue = by_name()
    wanted = [benchmark_named(name, catalogue) for name in dict.fromkeys(request.benchmarks)] or list(
        catalogue.values()
    )
    modes = _modes(request.modes)
    judge_config = endpoint_config(
        request.judge_endpoint, request.judge_model, request.judge_key_env, None, "judge-endpoint"
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    prepare_torch(request.threads)
    out, subject, judge = open_subject(request, judge_config)
    settings = _settings(request, subject)
    documents = open_documents(request.corpus, out / "state")
    chosen = select(wanted, modes, lambda _: _load_request(request, documents, subject.tokenizer, subject.window))
    if not chosen.planned:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in chosen.skipped.items())
        raise ConfigError(f"none of the benchmarks can be asked:\n{reasons}")
    started = time.monotonic()
    evaluation = evaluate_planned(
        subject.open_engine,
        chosen.planned,
        settings,
        answers_file(out / "state", subject.identity, settings),
        _Progress(len(chosen.planned)).note,
        concurrent=subject.concurrent,
        judge=judge,
    ).with_gaps(chosen.skipped, chosen.broken)
    write_evaluation(out, subject.name, evaluation)
    for line in score_table(evaluation):
        say(line)
    kept = len(chosen.planned) - evaluation.asked_now
    say(
        f"{len(evaluation.predictions)} answers, {kept} of {len(chosen.planned)} questions kept from before, "
        f"{time.monotonic() - started:.0f} s; {out / 'scores.json'}, {out / 'predictions.jsonl'}"
    )
    if evaluation.unanswered:
        say(f"{evaluation.unanswered} questions are unanswered: run the same command again to ask them.")
        return _UNANSWERED_EXIT
    return 0


def _settings(request: EvalRequest, subject: Subject) -> AskSettings:
    room = request.reasoning_tokens
    if room is None:
        room = _REASONING_TOKENS if subject.reasons else 0
    return AskSettings.model_validate(
        {
            "max_input_tokens": min(request.max_input_tokens, subject.window),
            "max_output_tokens": request.max_output_tokens,
            "reasoning_tokens": room,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "samples": request.samples,
            "seed": request.seed,
            "agent": agent_lengths(subject.window, request.chunk_tokens, request.memory_tokens)
            | {"prompt_order": "memory_first", "split_question": "rules"},
        }
    )


def _modes(names: tuple[str, ...]) -> list[Mode]:
    known = get_args(Mode)
    for name in names:
        if name not in known:
            raise ConfigError(f"--mode {name}: choose {', '.join(known)}.")
    return [cast(Mode, name) for name in dict.fromkeys(names)]


def _load_request(
    request: EvalRequest, documents: DocumentStore | None, tokenizer: ChatTokenizer | None, window: int
) -> LoadRequest:
    fitting = tuple(tokens for tokens in _LENGTHS if tokens + 1_024 <= min(window, request.max_input_tokens))
    if request.data is not None and not request.data.is_dir():
        raise ConfigError(f"--data {request.data} is no folder. Give one that holds <benchmark>/ folders or files.")
    return LoadRequest(
        data_dir=request.data or (DEFAULT_DATA if DEFAULT_DATA.is_dir() else None),
        use_hub=request.hub,
        limit=request.limit,
        lengths=request.lengths or fitting[-2:] or (max(64, window // 2),),
        seed=request.seed,
        count_tokens=(lambda text: len(text) // 4)
        if tokenizer is None
        else (lambda text: len(tokenizer.encode_text(text))),
        documents=documents,
    )


class _Progress:
    """A line on stderr now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._questions = self._tokens = 0
        self._started = self._said = time.monotonic()

    def note(self, item: Planned, result: list[Answer] | FailureReason) -> None:
        self._questions += 1
        if isinstance(result, list):
            self._tokens += sum(answer.prompt_tokens + answer.response_tokens for answer in result)
        now = time.monotonic()
        if now - self._said >= _PROGRESS_SECONDS:
            self._said = now
            sys.stderr.write(
                f"{self._questions} of {self._total} questions, {self._tokens:,} tokens, {now - self._started:.0f} s "
                f"({item.question.benchmark}, {item.mode})\n"
            )
            sys.stderr.flush()
