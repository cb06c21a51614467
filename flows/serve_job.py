"""One answer under way: works in the engine's thread, tells the loop that talks to the client what happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flows.serve_api import ChatCall
from flows.serve_engine import EngineThread, Streaming, Watch
from flows.serve_limits import Deadline
from flows.serve_plan import OnePass, Plan, Reading
from flows.serve_text import AnswerText, Delta
from stages.common.errors import EnvironmentFailureError
from stages.common.rollouts import Completion, GenerationRequest
from stages.memory.agent import MemoryAgent
from stages.memory.query import SplitBy, SplitQuery, split_query
from stages.memory.query_model import split_of_completion, split_request
from stages.memory.results import Turn
from stages.memory.window import AgentLengths

logger = logging.getLogger(__name__)


class Trace(Protocol):
    """Where a question's turns are recorded (infra/tracing.py). Methods return at once."""

    def turn(self, turn: Turn) -> None: ...

    def end(self, answer: str, attributes: dict[str, Any]) -> None: ...

    def fail(self, why: str) -> None: ...


@dataclass(frozen=True)
class Read:
    """A section was read."""

    turn: int
    end: int  # characters read
    total: int


@dataclass(frozen=True)
class Done:
    """The whole answer. Tokens are those of all turns; counters: of the agent, without them it was one pass."""

    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """What went wrong."""

    error: Exception


Event = Delta | Read | Done | Failed


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a request may leave open."""

    temperature: float
    top_p: float
    seed: int


class Job:
    """Starts at once. events: what happens, the last one Done or Failed; a cancelled job may end without either.

    deadline: when whoever follows the events gives it up.
    on_end: called in the caller's loop when the engine has let go of the job.
    """

    def __init__(
        self,
        host: EngineThread,
        streaming: Streaming,
        lengths: AgentLengths,
        split_question: SplitBy,
        defaults: Sampling,
        call: ChatCall,
        plan: Plan,
        trace: Trace | None,
        deadline: Deadline,
        on_end: Callable[[], None],
    ) -> None:
        self.deadline = deadline
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._host = host
        self._streaming = streaming
        self._lengths = lengths
        self._split_question = split_question
        self._sampling = Sampling(
            temperature=defaults.temperature if call.temperature is None else call.temperature,
            top_p=defaults.top_p if call.top_p is None else call.top_p,
            seed=defaults.seed if call.seed is None else call.seed,
        )
        self._call = call
        self._trace = trace
        self._watch = Watch()
        self._why_cancelled = "the client has gone"
        self._cancel = host.start(self._run(plan), lambda: self._tell(on_end))

    def cancel(self, why: str | None = None) -> None:
        """Nobody waits any more: give up at the next token. Without effect on a job that has ended. why: for the trace."""
        if why is not None:
            self._why_cancelled = why
        self._watch.over = True
        self._cancel()

    # From here on: in the engine's thread

    def _tell(self, what: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the server's loop has been closed meanwhile
            self._loop.call_soon_threadsafe(what, *arguments)

    def _post(self, event: Event) -> None:
        self._tell(self.events.put_nowait, event)

    async def _run(self, plan: Plan) -> None:
        try:
            done = await (self._one_pass(plan) if isinstance(plan, OnePass) else self._read(plan))
        except asyncio.CancelledError:
            if self._trace is not None:
                self._trace.fail(self._why_cancelled)
            raise
        except Exception as error:  # the client is told; the server goes on  # noqa: BLE001
            if isinstance(error, EnvironmentFailureError):
                self._host.failure = error
            if self._trace is not None:
                self._trace.fail(f"{type(error).__name__}: {error}")
            self._post(Failed(error))
            return
        if self._trace is not None:
            used = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
            self._trace.end(done.content, {**used, **done.counters, "finish_reason": done.finish_reason})
        self._post(done)

    async def _one_pass(self, plan: OnePass) -> Done:
        tokenizer = self._host.engine.tokenizer
        request = GenerationRequest(
            prompt_ids=plan.prompt_ids,
            max_tokens=plan.answer_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=self._sampling.seed,
        )
        text = AnswerText(tokenizer.decode, self._call.stop, bool(getattr(tokenizer, "opens_reasoning", False)))
        completion = await self._answer(request, text)
        return self._done(text, completion, len(plan.prompt_ids), len(completion.token_ids))

    async def _read(self, plan: Reading) -> Done:
        tokenizer = self._host.engine.tokenizer
        agent = MemoryAgent(
            self._host.engine,
            self._lengths.chunk,
            self._lengths.memory,
            self._lengths.turn,
            plan.answer_tokens,
            plan_tokens=self._lengths.plan,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            split=None,
        )
        split, asked, said = await self._split(plan.question)
        text = AnswerText(tokenizer.decode, self._call.stop, bool(getattr(tokenizer, "opens_reasoning", False)))
        answering: list[Completion] = []
        everything_read = False

        def on_turn(turn: Turn) -> None:
            if self._trace is not None:
                self._trace.turn(turn)
            self._post(Read(turn.number, turn.chunk_end, len(plan.document)))

        def on_answer() -> None:
            nonlocal everything_read
            everything_read = True

        async def generate(request: GenerationRequest) -> list[Completion]:
            if not everything_read:
                return [await self._host.generate(request, self._watch, self._streaming)]
            answering.append(await self._answer(request, text))
            return answering

        steps = agent.trajectory(
            split.core,
            plan.document,
            f"{split.instructions}\n{plan.instruction}".strip(),
            self._sampling.seed,
            on_turn=on_turn,
            on_answer=on_answer,
        )
        result = await agent.finish(steps, generate=generate)
        prompt, generated = result.prompt_tokens + asked, result.response_tokens + said
        return self._done(text, answering[0], prompt, generated, result.counters)

    async def _split(self, question: str) -> tuple[SplitQuery, int, int]:
        """The question's core and its formatting instructions, and the tokens that the model was asked and said for it."""
        if self._split_question == "off":
            return SplitQuery(question, ""), 0, 0
        request = split_request(self._host.engine, question) if self._split_question == "model" else None
        if request is None:
            return split_query(question), 0, 0
        completion = await self._host.generate(request, self._watch, self._streaming)
        split = split_of_completion(self._host.engine, completion, question)
        return split, len(request.prompt_ids), len(completion.token_ids)

    async def _answer(self, request: GenerationRequest, text: AnswerText) -> Completion:
        """Generate what the client sees; its text goes out as it comes if it was asked for, or if it may stop early."""

        def on_tokens(ids: Sequence[int]) -> None:
            delta = text.feed(ids)
            if self._call.stream and delta != Delta():
                self._post(delta)
            if text.stopped:
                self._watch.over = True

        if self._call.stream or self._call.stop:
            self._watch.on_tokens = on_tokens
        completion = await self._host.generate(request, self._watch, self._streaming)
        rest = text.feed(completion.token_ids, last=True)
        if self._call.stream and rest != Delta():
            self._post(rest)
        return completion

    def _done(
        self,
        text: AnswerText,
        completion: Completion,
        prompt: int,
        generated: int,
        counters: dict[str, int] | None = None,
    ) -> Done:
        reason = "stop" if text.stopped else completion.finish_reason
        return Done(text.content, text.reasoning, reason, prompt, generated, counters or {})
