"""Needle and multi-hop questions at growing lengths in agent mode (benchmarks/memory.py --score), with the evaluation's own code.

One row per model, set and length: score with its 95 % interval, seconds per question (wall time of the set divided by its
questions, which are asked side by side), turns that did not parse. Answers are kept in --folder: run again to go on. After
--minutes nothing more is asked: questions under way stay unanswered, are counted, and are in no mean. --records keeps what the
agent read and wrote, a JSON line per question, for MLflow's Traces (infra/trajectories.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.memory_parts import Lengths, open_corpus, open_engine, tokens_of
from stages.common.chat import ChatFailedError, FailureReason
from stages.common.rollouts import Completion, GenerationRequest
from stages.common.tokens import ChatTokenizer
from stages.engines.base import RolloutEngine
from stages.evaluation.asking import closing
from stages.evaluation.base import LoadRequest, Question
from stages.evaluation.benchmarks.ultra_long import multi_hop_task, needle_task, questions_of_length
from stages.evaluation.config import AskSettings
from stages.evaluation.finished import Answer
from stages.evaluation.planning import Planned, plan
from stages.evaluation.recording import Recorder
from stages.evaluation.session import answers_file, evaluate_planned
from stages.memory.config import MemoryAgentConfig
from stages.memory.results import AgentResult

MAKERS = {"needle": needle_task, "multi_hop": multi_hop_task}


class UntilDeadline:
    """An engine that refuses requests after a deadline, as a budget that is used up: the question stays unanswered."""

    def __init__(self, engine: Any, deadline: float) -> None:
        self._engine, self._deadline = engine, deadline
        self.tokenizer, self.max_model_tokens = engine.tokenizer, engine.max_model_tokens

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        if time.monotonic() > self._deadline:
            raise ChatFailedError("budget", "the time for this benchmark is used up")
        answers: list[Completion] = await self._engine.generate(request)
        return answers

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        answers: list[list[Completion]] = self._engine.generate_all(requests)
        return answers

    def sleep(self) -> None:
        self._engine.sleep()

    def wake_up(self) -> None:
        self._engine.wake_up()

    def load_weights(self, named_tensors: Iterable[Any]) -> None:
        self._engine.load_weights(named_tensors)

    def close(self) -> None:
        """The engine stays: it serves the next length too."""


class RecordsFile:
    """Appends trajectories to a file; metrics are passed over. Without a file nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scores have their own rows."""

    def trajectory(self, record: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def score(arguments: argparse.Namespace, models: Sequence[Path], lengths: Lengths, folder: Path) -> dict[str, Any]:
    """Rows of all models, sets and lengths; written to --json after every length."""
    found: dict[str, Any] = {
        "lengths": lengths._asdict(),
        "engine": arguments.engine,
        "questions": arguments.questions,
        "temperature": arguments.temperature,
        "prompt_order": arguments.order,
        "rows": [],
    }
    wanted = sorted(tokens_of(word) for word in arguments.score.split(","))
    deadline = time.monotonic() + 60 * (arguments.minutes or 1e6)
    for index, model in enumerate(models):
        # What is left is shared out evenly, so that the second model is asked too.
        until = time.monotonic() + (deadline - time.monotonic()) / (len(models) - index)
        prepared = [(tokens, _questions(arguments, model, tokens, folder)) for tokens in wanted]
        engine = open_engine(
            arguments.engine, model, arguments.dtype, arguments.window or lengths.window, arguments.gpu_memory
        )
        try:
            for tokens, questions in prepared:
                rows = _rows(arguments, model, index, lengths, tokens, questions, UntilDeadline(engine, until), folder)
                found["rows"] += rows
                for row in rows:
                    print(json.dumps(row), flush=True)
                if arguments.json:
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    arguments.json.write_text(json.dumps({"score": found}, indent=1) + "\n", encoding="utf-8")
        finally:
            engine.close()
    return found


def _questions(arguments: argparse.Namespace, model: Path, tokens: int, folder: Path) -> dict[str, list[Question]]:
    """Both sets at one length, their texts written; names without the model's, since texts depend on the tokenizer alone."""
    tokenizer = ChatTokenizer(model)
    request = LoadRequest(
        data_dir=None,
        use_hub=False,
        limit=arguments.questions,
        lengths=(tokens,),
        seed=arguments.seed,
        count_tokens=lru_cache(maxsize=16_384)(lambda text: len(tokenizer.encode_text(text))),
        documents=open_corpus(folder, arguments.corpus),
    )
    made = {}
    for name in arguments.sets.split(","):
        make = MAKERS[name]
        texts = folder / "texts" / f"{name}-{tokens}"
        made[name] = questions_of_length(make, f"{name}/{tokens}", request, tokens, arguments.questions, texts)
    return made


def _rows(
    arguments: argparse.Namespace,
    model: Path,
    index: int,
    lengths: Lengths,
    tokens: int,
    questions: dict[str, list[Question]],
    engine: Any,
    folder: Path,
) -> list[dict[str, Any]]:
    settings = AskSettings(
        max_input_tokens=max(32, lengths.window - lengths.answer_tokens),
        max_output_tokens=lengths.answer_tokens,
        reasoning_tokens=0,
        temperature=arguments.temperature,
        top_p=0.95,
        samples=1,
        seed=arguments.seed,
        agent=MemoryAgentConfig.model_validate(
            lengths._asdict() | {"prompt_order": arguments.order, "split_question": "rules"}
        ),
    )
    planned = [plan(question, "memory_agent") for group in questions.values() for question in group]
    recorder = Recorder(planned, RecordsFile(arguments.records))

    unparsed: Counter[str] = Counter()

    def read(item: Planned, sample: int, result: AgentResult) -> None:
        unparsed[item.question.benchmark] += result.counters["parse_failures"]
        recorder.read(item, sample, result)

    def answered(item: Planned, answers: list[Answer] | FailureReason) -> None:
        if isinstance(answers, list):
            recorder.kept(item, answers)
        print(f"{item.question.benchmark} {item.question.id} answered", flush=True)

    started = time.perf_counter()
    evaluation = evaluate_planned(
        closing(lambda: _as_engine(engine)),
        planned,
        settings,
        answers_file(folder / "answers", f"{index}-{model}", settings),
        answered,
        concurrent=0 if arguments.engine == "transformers" else arguments.concurrent,
        on_read=read,
    )
    seconds = time.perf_counter() - started
    turns = {
        row["benchmark"]: [p.turns for p in evaluation.predictions if p.benchmark == row["benchmark"]]
        for row in evaluation.rows
    }
    return [
        {
            "model": str(model),
            "set": row["benchmark"].split("/")[0],
            "tokens": tokens,
            "n": row["n"],
            "score": row["mean"],
            "ci_low": row["ci_low"],
            "ci_high": row["ci_high"],
            "interval": row["interval"],
            "unanswered": row["unanswered"],
            "turns_per_question": sum(turns[row["benchmark"]]) / max(1, len(turns[row["benchmark"]])),
            "turns_not_parsed": unparsed[row["benchmark"]],  # of those asked now
            "asked_now": evaluation.asked_now,
            "seconds_per_question": seconds / max(1, evaluation.asked_now),
            "seconds": seconds,
        }
        for row in evaluation.rows
    ]


def _as_engine(engine: Any) -> RolloutEngine:
    assert isinstance(engine, RolloutEngine)
    return engine


def show_scores(found: dict[str, Any]) -> list[str]:
    """The rows as a Markdown table, one line per set and length, one column per model."""
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    keys = list(dict.fromkeys((row["set"], row["tokens"]) for row in found["rows"]))
    lines = [f"| set | tokens | {' | '.join(f'{Path(model).name}: score, s per question' for model in models)} |"]
    lines.append("|---" * (2 + len(models)) + "|")
    for name, tokens in sorted(keys, key=lambda key: (key[0] != "needle", key[1])):
        cells = []
        for model in models:
            row = next((r for r in found["rows"] if (r["model"], r["set"], r["tokens"]) == (model, name, tokens)), None)
            cells.append("-" if row is None else _cell(row))
        lines.append(f"| {name} | {tokens:,} | {' | '.join(cells)} |")
    return lines


def _cell(row: dict[str, Any]) -> str:
    if not row["n"]:
        return f"unanswered: {sum(row['unanswered'].values())}"
    text = f"{100 * row['score']:.0f} ({100 * row['ci_low']:.0f} to {100 * row['ci_high']:.0f}), n {row['n']}"
    missing = sum(row["unanswered"].values())
    return f"{text}, {row['seconds_per_question']:.1f} s" + (f", {missing} unanswered" if missing else "")
