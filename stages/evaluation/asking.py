"""Asks what is planned and keeps every answer the moment it is there, so that a kill neither redoes nor loses a question.

    for unit in units:            one machine: the questions of a batch together, batches in order
    for question in questions:    servers (vLLM, endpoints): all at once, at most `concurrent` under way

What a server does wrong concerns one question: if it may be mended by waiting (rate limits, silence), the question stays
unanswered and the next run asks it again; if not (nonsense, a refusal), that is the model's answer: a counted failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from stages.common.chat import ChatFailedError, FailureReason
from stages.common.chat_client import OpenAIChat
from stages.common.gathering import gather_all
from stages.engines.base import RolloutEngine
from stages.engines.endpoint_engine import EndpointEngine, EndpointTokenizer
from stages.evaluation.answering import OnRead, answer_question
from stages.evaluation.config import AskSettings
from stages.evaluation.finished import Answer, FinishedAnswers
from stages.evaluation.planning import Planned, units_of

OpenEngine = Callable[[], AbstractAsyncContextManager[RolloutEngine]]
Progress = Callable[[Planned, list[Answer] | FailureReason], None]  # called for every question, kept ones too


@dataclass(frozen=True)
class Asked:
    """answers: of each planned question, in order; None: unanswered, for the reason in `unanswered` (by position)."""

    answers: list[list[Answer] | None]
    unanswered: dict[int, FailureReason] = field(default_factory=dict)
    asked_now: int = 0  # questions that were not kept already


def ask_all(
    open_engine: OpenEngine,
    planned: Sequence[Planned],
    settings: AskSettings,
    finished: FinishedAnswers,
    progress: Progress,
    concurrent: int = 0,
    on_read: OnRead | None = None,
) -> Asked:
    """Answers of all questions. The engine is made only if something is left to be asked.

    concurrent: questions under way at once, for engines whose requests do not share numerics; 0: batches in order.
    on_read: gets the agent's trajectories; `progress` is called when their question is kept.
    Raises UserError for what concerns every question: a model that cannot be opened, a wrong key.
    """
    return asyncio.run(_ask_all(open_engine, planned, settings, finished, progress, concurrent, on_read))


async def _ask_all(
    open_engine: OpenEngine,
    planned: Sequence[Planned],
    settings: AskSettings,
    finished: FinishedAnswers,
    progress: Progress,
    concurrent: int,
    on_read: OnRead | None,
) -> Asked:
    left = [item for item in planned if finished.get(item) is None]
    kept = [item for item in planned if finished.get(item) is not None]
    for item in kept:
        progress(item, finished.get(item) or [])
    failed: dict[tuple[str, str, str], FailureReason] = {}

    def done(items: Sequence[Planned], results: Sequence[list[Answer] | FailureReason]) -> None:
        whole = [(item, result) for item, result in zip(items, results, strict=True) if isinstance(result, list)]
        if whole:
            finished.add(whole)
        for item, result in zip(items, results, strict=True):
            if not isinstance(result, list):
                failed[item.key] = result
            progress(item, result)

    if left:
        async with open_engine() as engine:
            if concurrent:
                await _side_by_side(engine, left, settings, done, concurrent, on_read)
            else:
                await _batch_by_batch(engine, units_of(planned, settings), finished, settings, done, on_read)
    answers = [finished.get(item) for item in planned]
    unanswered = {index: failed[item.key] for index, item in enumerate(planned) if answers[index] is None}
    return Asked(answers, unanswered, len(left))


Done = Callable[[Sequence[Planned], Sequence[list[Answer] | FailureReason]], None]


async def _batch_by_batch(
    engine: RolloutEngine,
    units: Sequence[Sequence[Planned]],
    finished: FinishedAnswers,
    settings: AskSettings,
    done: Done,
    on_read: OnRead | None,
) -> None:
    """A unit's questions wait for the engine at the same time, so they share its batch."""
    for unit in units:
        left = [item for item in unit if finished.get(item) is None]
        if left:
            done(left, await asyncio.gather(*(_answers(engine, item, settings, on_read) for item in left)))


async def _side_by_side(
    engine: RolloutEngine,
    left: Sequence[Planned],
    settings: AskSettings,
    done: Done,
    concurrent: int,
    on_read: OnRead | None,
) -> None:
    """At most `concurrent` questions under way; each is kept when it is finished. The first error ends all."""
    waiting = iter(left)

    async def work() -> None:
        for item in waiting:  # shared: every worker takes the next one
            done([item], [await _answers(engine, item, settings, on_read)])

    await gather_all(work() for _ in range(min(concurrent, len(left))))


async def _answers(
    engine: RolloutEngine, item: Planned, settings: AskSettings, on_read: OnRead | None
) -> list[Answer] | FailureReason:
    try:
        return await answer_question(engine, item, settings, on_read)
    except ChatFailedError as error:
        return error.reason


def closing(make: Callable[[], RolloutEngine]) -> OpenEngine:
    """An engine that is made when it is needed and closed at the end."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[RolloutEngine]:
        engine = make()
        try:
            yield engine
        finally:
            engine.close()

    return opened


def endpoint(chat: OpenAIChat, tokenizer: EndpointTokenizer, window_tokens: int) -> OpenEngine:
    """An OpenAI-compatible endpoint in place of an engine; its client lives as long as the asking."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[RolloutEngine]:
        async with chat:
            yield EndpointEngine(chat, tokenizer, window_tokens)

    return opened
