"""`longfuse ask`: a question to documents of any length, answered by the memory agent, or in one pass if they fit.

    longfuse ask --model outputs/rl/stage4/data --document report.pdf "What were the net sales of 2024?"

The answer goes to standard output, progress and notes to standard error.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.ask_documents import one_text
from flows.eval_inputs import DEFAULT_MODEL, agent_lengths, open_model_folder, train_config
from stages.common.errors import ConfigError, InputError
from stages.memory.query import SplitBy, SplitQuery, split_query

if TYPE_CHECKING:
    from infra.tracing import QuestionTrace
    from stages.engines.base import RolloutEngine
    from stages.memory.results import AgentResult, Turn

_FORMAT = "Answer shortly. If the memory does not hold the answer, say so."


@dataclass(frozen=True, kw_only=True)
class AskRequest:
    """What was asked for on the command line. window, chunk_tokens, memory_tokens: None: what the model allows."""

    question: str
    documents: tuple[Path, ...]
    model: Path | None = None
    full_context: bool = False
    trace: bool = False
    as_json: bool = False
    trace_mlflow: bool = False
    tracking_uri: str | None = None
    window: int | None = None
    chunk_tokens: int | None = None
    memory_tokens: int | None = None
    split_question: SplitBy = "rules"
    answer_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 17
    engine: str = "transformers"
    dtype: str = "bfloat16"
    threads: int = 2


def ask(request: AskRequest) -> int:
    """Answer; the exit code. UserError for flags, models and documents that cannot be used."""
    from flows.remote_access import hand_over_remote_engine
    from flows.stage import prepare_torch
    from stages.engines.build import build_engine

    if not request.question.strip():
        raise ConfigError('the question is empty: longfuse ask --document FILE "QUESTION".')
    if any("\ud800" <= letter <= "\udfff" for letter in request.question):
        raise ConfigError("the question is not valid UTF-8: type it in a UTF-8 terminal, or set LC_ALL=C.UTF-8.")
    path = request.model or DEFAULT_MODEL
    if request.model is None and not path.exists():
        raise ConfigError(
            f"there is no {path} yet: name a model folder with --model DIR, or make one with `longfuse run`."
        )
    folder = open_model_folder(path)
    with tempfile.TemporaryDirectory(prefix="longfuse-ask-") as scratch, _traced(request, folder.name) as trace:
        text = one_text(request.documents, Path(scratch))
        prepare_torch(request.threads)
        window = min(request.window or folder.window_tokens, folder.window_tokens)
        config = train_config(request.engine, request.dtype, request.threads)
        hand_over_remote_engine()
        engine = build_engine(folder.path, config, max_model_tokens=window)
        try:
            result = (
                _one_pass(request, engine, text, window)
                if request.full_context
                else _read(request, engine, text, window, trace)
            )
            if trace is not None:
                used = {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.response_tokens}
                trace.end(result.answer, {**used, **result.counters})
        finally:
            engine.close()
    _show(request, folder.name, result)
    return 0


@contextmanager
def _traced(request: AskRequest, model: str) -> Iterator[QuestionTrace | None]:
    """Where the turns are recorded; None if that was not asked for. A question without an answer is recorded as failed."""
    if not request.trace_mlflow:
        yield None
        return
    from flows.tracing import open_tracer

    with open_tracer("ask", model, request.tracking_uri) as tracer:
        mode = "one_pass" if request.full_context else "agent"
        trace = tracer.question(
            request.question, {"mode": mode, "documents": [path.name for path in request.documents]}
        )
        try:
            yield trace
        except BaseException as error:
            trace.fail(f"{type(error).__name__}: {error}")
            raise


def _read(
    request: AskRequest, engine: RolloutEngine, text: Path, window: int, trace: QuestionTrace | None
) -> AgentResult:
    """Chunk by chunk with the memory agent."""
    from stages.memory.agent import MemoryAgent

    lengths = agent_lengths(window, request.chunk_tokens, request.memory_tokens)
    if request.answer_tokens is not None:
        lengths["answer_tokens"] = request.answer_tokens
    split, used = _split(request, engine)
    agent = MemoryAgent(
        engine,
        lengths["chunk_tokens"],
        lengths["memory_tokens"],
        lengths["turn_tokens"],
        lengths["answer_tokens"],
        temperature=request.temperature,
        top_p=0.95,
        seed=request.seed,
        format_instruction=f"{split.instructions}\n{_FORMAT}".strip(),
        split=None,
    )
    with _Progress(text.stat().st_size) as progress:

        def on_turn(turn: Turn) -> None:
            progress.turn(turn)
            if trace is not None:
                trace.turn(turn)

        result = agent.answer(split.core, text, on_turn=on_turn)
    return replace(
        result,
        prompt_tokens=result.prompt_tokens + used[0],
        response_tokens=result.response_tokens + used[1],
    )


def _split(request: AskRequest, engine: RolloutEngine) -> tuple[SplitQuery, tuple[int, int]]:
    """The question's core and its formatting instructions, and the tokens that a model was asked and said for it."""
    from stages.memory.query_model import split_of_completion, split_request

    if request.split_question == "off":
        return SplitQuery(request.question, ""), (0, 0)
    asked = split_request(engine, request.question) if request.split_question == "model" else None
    if asked is None:
        return split_query(request.question), (0, 0)
    (completion,) = engine.generate_all([asked])[0]
    used = (len(asked.prompt_ids), len(completion.token_ids))
    return split_of_completion(engine, completion, request.question), used


def _one_pass(request: AskRequest, engine: RolloutEngine, text: Path, window: int) -> AgentResult:
    """The whole text in one prompt. InputError, with the numbers, if it does not fit."""
    from stages.common.prompts import defuse_tags
    from stages.common.rollouts import GenerationRequest
    from stages.common.text import strip_reasoning
    from stages.memory.results import AgentResult

    answer_tokens = request.answer_tokens or min(4_096, window // 8)
    if text.stat().st_size > 32 * window:  # no tokenizer needs so few tokens; do not read gigabytes to refuse them
        raise InputError(_too_long(f"over {text.stat().st_size // 32}", answer_tokens, window))
    content = defuse_tags(text.read_text(encoding="utf-8"))
    prompt = engine.tokenizer.encode_chat(
        [{"role": "user", "content": f"<documents>\n{content}\n</documents>\n\n{defuse_tags(request.question)}"}]
    )
    if len(prompt) + answer_tokens > window:
        raise InputError(_too_long(str(len(prompt)), answer_tokens, window))
    asked = GenerationRequest(
        prompt_ids=prompt, max_tokens=answer_tokens, temperature=request.temperature, top_p=0.95, seed=request.seed
    )
    (completion,) = engine.generate_all([asked])[0]
    response = engine.tokenizer.decode(completion.token_ids)
    return AgentResult(strip_reasoning(response), (), response, len(prompt), len(completion.token_ids))


def _too_long(prompt: str, answer_tokens: int, window: int) -> str:
    return (
        f"the documents and the question are {prompt} tokens, with {answer_tokens} for the answer more than the model's "
        f"window of {window}. Leave --full-context out: the memory agent reads documents of any length."
    )


class _Progress:
    """A bar over the document on standard error, where that is a terminal; else a line per turn."""

    def __init__(self, total_bytes: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._total = max(1, total_bytes)
        self._bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> _Progress:
        self._bar.start()
        self._task = self._bar.add_task("reading", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def turn(self, turn: Turn) -> None:
        """A chunk was read. Characters against bytes: where letters have several bytes the bar ends early."""
        if self._bar.disable:
            share = min(1.0, turn.chunk_end / self._total)
            sys.stderr.write(
                f"section {turn.number}, {share:.0%} read{'' if turn.parsed else ', no memory was found'}\n"
            )
        self._bar.update(self._task, completed=min(turn.chunk_end, self._total), description=f"section {turn.number}")


def _show(request: AskRequest, model: str, result: AgentResult) -> None:
    if request.as_json:
        turns = [asdict(turn) for turn in result.turns]
        value: dict[str, Any] = {"question": request.question, "model": model, "answer": result.answer}
        value |= {"prompt_tokens": result.prompt_tokens, "response_tokens": result.response_tokens, **result.counters}
        sys.stdout.write(json.dumps(value | ({"trace": turns} if request.trace else {}), ensure_ascii=False) + "\n")
        return
    if request.trace:
        for line in trace_lines(result.turns):
            sys.stderr.write(line + "\n")
    sys.stdout.write(result.answer + "\n")


def trace_lines(turns: Sequence[Turn]) -> list[str]:
    """The memory's history: a head per section, then what the memory and the plan became. Control characters are shown."""
    lines = []
    for turn in turns:
        lines.append(
            f"--- section {turn.number}: characters {turn.chunk_start} to {turn.chunk_end}, {turn.chunk_tokens} tokens, "
            f"{turn.seconds:.1f} s{'' if turn.parsed else ', no memory was found: the old one was kept'}"
        )
        lines.append(f"memory: {_visible(turn.memory) if turn.memory != turn.memory_before else '(unchanged)'}")
        if turn.plan:
            lines.append(f"plan: {_visible(turn.plan)}")
    return lines


def _visible(text: str) -> str:
    """A model's text cannot steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
