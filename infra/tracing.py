"""The memory agent's work in MLflow's Traces: a root span per question, below it a span per section and one for the answer.

    question "Who owns the key?"
      section 1    chunk_start_token 0, chunk_end_token 4090, parsed true, ...   inputs: memory, plan    outputs: memory, plan
      section 2    ...
      answer

Spans are sent as they end, by one thread from a queue: who reports a turn never waits, and an error of MLflow is logged
once and fails nothing. What documents and models wrote is data here: it stands in inputs and outputs, cut to
MAX_CHARACTERS, never in a name. The trace's tags say which model answered.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from infra.mlflow_store import check_reachable, open_store
from infra.settings import Settings, export

MAX_CHARACTERS = 20_000  # of a text in a span: a memory of the paper's 15K tokens would be three times that
MAX_WAITING = 10_000  # spans: a store that hangs must not fill the memory
_TTL_SECONDS = 30 * 24 * 3600  # MLflow forgets a trace that is under way for longer, an hour by default
logger = logging.getLogger(__name__)


class TurnLike(Protocol):
    """What a turn of the agent is known by (stages.memory.results.Turn)."""

    @property
    def number(self) -> int: ...
    @property
    def memory(self) -> str: ...
    @property
    def memory_before(self) -> str: ...
    @property
    def plan(self) -> str: ...
    @property
    def parsed(self) -> bool: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def memory_cut(self) -> bool: ...
    @property
    def chunk_start(self) -> int: ...
    @property
    def chunk_end(self) -> int: ...
    @property
    def chunk_tokens(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def response_tokens(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class AgentTracer:
    """Records questions in the store of `settings`. Close it to have everything sent.

    name: of the root spans ("ask", "serve"). tags: of every trace.
    Raises InfraError at once if the store cannot be reached.
    """

    def __init__(self, settings: Settings, name: str, tags: Mapping[str, str] | None = None) -> None:
        check_reachable(settings)
        self._settings = settings
        self._name = name
        self._tags = dict(tags or {})
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="mlflow-traces", daemon=True)
        self._thread.start()

    def question(self, question: str, attributes: Mapping[str, Any]) -> QuestionTrace:
        """Begin a trace. attributes: of its root span."""
        return QuestionTrace(self._later, self._start_root, question, attributes)

    def close(self, timeout_seconds: float = 60.0) -> None:
        """Send the rest, with a bound."""
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            pass
        else:
            self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            logger.warning("MLflow took longer than %.0f s: the last spans are missing there", timeout_seconds)

    def _later(self, action: Callable[[], None]) -> None:
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._warn("it does not keep up")

    # --- in the thread

    def _work(self) -> None:
        experiment: str | None = None
        while (action := self._queue.get()) is not None:
            try:
                if experiment is None:
                    experiment = self._open()
                    self._experiment = experiment
                action()
            except Exception as error:  # sqlalchemy, requests and mlflow errors have no common root  # noqa: BLE001
                self._warn(str(error))

    def _open(self) -> str:
        if self._settings.owns_mlflow_store:
            self._settings.mlflow_dir.mkdir(parents=True, exist_ok=True)
        export(
            {
                "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # this thread is asynchronous enough, and ends when asked to
                "MLFLOW_TRACE_BUFFER_TTL_SECONDS": str(_TTL_SECONDS),
            }
        )
        _, experiment = open_store(self._settings)
        import mlflow

        mlflow.set_tracking_uri(self._settings.mlflow_tracking_uri)
        return experiment

    def _start_root(self, question: str, attributes: Mapping[str, Any], start_ns: int) -> Any:
        import mlflow

        return mlflow.start_span_no_context(
            self._name,
            span_type="AGENT",
            inputs={"question": shortened(question)},
            attributes=safe_attributes(attributes),
            tags=self._tags,
            experiment_id=self._experiment,
            start_time_ns=start_ns,
        )

    def _warn(self, why: str) -> None:
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "MLflow Traces: %s. Answers go on; what could not be sent is missing there.", why)


class QuestionTrace:
    """The trace of one question. Methods return at once; call `end` or `fail` in the end."""

    def __init__(
        self,
        later: Callable[[Callable[[], None]], None],
        start_root: Callable[[str, Mapping[str, Any], int], Any],
        question: str,
        attributes: Mapping[str, Any],
    ) -> None:
        self._later = later
        self._root: Any = None  # of MLflow; None until the thread has begun it, and if that failed
        self._last_ns = time.time_ns()
        self._tokens = 0  # of the document so far
        self._plan = ""
        start_ns = self._last_ns

        def start() -> None:
            self._root = start_root(question, attributes, start_ns)

        later(start)

    def turn(self, turn: TurnLike) -> None:
        """A section was read, just now."""
        end_ns = time.time_ns()
        start_ns = max(self._last_ns, end_ns - int(turn.seconds * 1e9))
        first, plan_before = self._tokens, self._plan
        self._tokens += turn.chunk_tokens
        self._plan, self._last_ns = turn.plan, end_ns
        attributes = {
            "section": turn.number,
            "chunk_start_token": first,
            "chunk_end_token": first + turn.chunk_tokens,
            "chunk_start_character": turn.chunk_start,
            "chunk_end_character": turn.chunk_end,
            "prompt_tokens": turn.prompt_tokens,
            "response_tokens": turn.response_tokens,
            "seconds": turn.seconds,
            "parsed": turn.parsed,
            "truncated": turn.truncated,
            "memory_cut": turn.memory_cut,
        }
        inputs = {"memory": shortened(turn.memory_before), "plan": shortened(plan_before)}
        outputs = {"memory": shortened(turn.memory), "plan": shortened(turn.plan)}
        self._later(lambda: self._child(f"section {turn.number}", inputs, outputs, attributes, start_ns, end_ns))

    def end(self, answer: str, attributes: Mapping[str, Any]) -> None:
        """The answer, just now. attributes: of the root span."""
        start_ns, end_ns = self._last_ns, time.time_ns()
        shown = shortened(answer)

        def finish() -> None:
            if self._root is not None:
                self._child("answer", {}, {"answer": shown}, {}, start_ns, end_ns)
                self._root.set_attributes(safe_attributes(attributes))
                self._root.set_outputs({"answer": shown})
                self._root.end(status="OK", end_time_ns=end_ns)

        self._later(finish)

    def fail(self, why: str) -> None:
        """There is no answer."""
        end_ns = time.time_ns()

        def finish() -> None:
            if self._root is not None:
                self._root.set_attributes({"error": shortened(why)})
                self._root.end(status="ERROR", end_time_ns=end_ns)

        self._later(finish)

    def _child(
        self,
        name: str,
        inputs: dict[str, str],
        outputs: dict[str, str],
        attributes: dict[str, Any],
        start_ns: int,
        end_ns: int,
    ) -> None:
        if self._root is None:
            return
        import mlflow

        span = mlflow.start_span_no_context(
            name,
            span_type="LLM",
            parent_span=self._root,
            inputs=inputs,
            attributes=attributes,
            start_time_ns=start_ns,
        )
        span.set_outputs(outputs)
        # An unparsed turn is no error of the run: the old memory was kept.
        span.end(status="OK", end_time_ns=end_ns)


def shortened(text: str) -> str:
    """At most MAX_CHARACTERS, and says what is missing; halves of characters, which no store takes, are replaced."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} [... {len(text) - MAX_CHARACTERS} more characters]"


def safe_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a span, their texts shortened."""
    return {key: shortened(value) if isinstance(value, str) else value for key, value in attributes.items()}
