"""The engine's side of `longfuse serve`: a thread with an event loop of its own, tokens as they come, giving up.

Generating blocks (the transformers engine computes inside its loop), so nothing of it runs in the loop that talks to
clients. How tokens come while they are generated depends on the engine:

    tokens   the engine calls back after each one (flows/serve_transformers.py); one given up ends there
    pieces   the answer is asked some tokens at a time, each piece a request that begins with the last one's end; for
             engines that keep the prefix (vLLM), which take a cancelled request out of the batch themselves
    whole    at the end
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from stages.common.rollouts import Completion, GenerationRequest
from stages.common.seeds import derive_seed
from stages.engines.base import RolloutEngine

PIECE_TOKENS = 32
CLOSE_SECONDS = 30.0

OnTokens = Callable[[Sequence[int]], None]
Streaming = Literal["tokens", "pieces", "whole"]


@dataclass(eq=False)
class Watch:
    """Looks at one request of a client while it is generated.

    on_tokens: gets all ids so far, in the engine's thread. over: no more tokens are wanted; any thread may set it.
    """

    on_tokens: OnTokens | None = None
    over: bool = False


@runtime_checkable
class TokenEngine(Protocol):
    """An engine that can be watched at every token."""

    watches: dict[int, Watch]  # by id() of the request


class EngineThread:
    """Owns an engine; everything that touches it or its tokenizer runs here.

    failure: what the engine died of, once it did.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.failure: Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serve-engine", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, None], on_end: Callable[[], None]) -> Callable[[], None]:
        """Run a coroutine here; returns what cancels it, from any thread.

        on_end: called here when it is over, however it ends, also if it was cancelled before it began.
        """
        tasks: list[asyncio.Task[None]] = []

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            on_end()

        def begin() -> None:
            task = self._loop.create_task(work)
            tasks.append(task)
            self._tasks.add(task)
            task.add_done_callback(over)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs any more
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())

        self._loop.call_soon_threadsafe(begin)
        return cancel

    async def generate(self, request: GenerationRequest, watch: Watch, streaming: Streaming) -> Completion:
        """One completion; to be awaited in this thread. A watch that is over ends it early, as stopped."""
        if streaming == "pieces" and watch.on_tokens is not None:
            return await self._in_pieces(request, watch)
        if isinstance(self.engine, TokenEngine):
            self.engine.watches[id(request)] = watch
        try:
            (completion,) = await self.engine.generate(request)
        finally:
            if isinstance(self.engine, TokenEngine):
                self.engine.watches.pop(id(request), None)
        if watch.on_tokens is not None:
            watch.on_tokens(completion.token_ids)
        return completion

    async def _in_pieces(self, request: GenerationRequest, watch: Watch) -> Completion:
        assert watch.on_tokens is not None
        ids: tuple[int, ...] = ()
        logprobs: tuple[float, ...] = ()
        while True:
            piece = replace(
                request,
                prompt_ids=request.prompt_ids + ids,
                max_tokens=min(PIECE_TOKENS, request.max_tokens - len(ids)),
                seed=derive_seed(request.seed, "piece", len(ids)) if ids else request.seed,
            )
            (completion,) = await self.engine.generate(piece)
            ids += completion.token_ids
            logprobs += completion.logprobs
            watch.on_tokens(ids)
            if watch.over or completion.finish_reason == "stop" or len(ids) >= request.max_tokens:
                return Completion(ids, logprobs, "stop" if watch.over else completion.finish_reason)

    def close(self) -> None:
        """Give up what runs, end the thread, close the engine. A thread that computes on is left behind (a daemon)."""

        async def wind_up() -> None:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        ended = asyncio.run_coroutine_threadsafe(wind_up(), self._loop)
        concurrent.futures.wait([ended], timeout=CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS if ended.done() else 0.1)
        if self._thread.is_alive():
            return
        self._loop.close()
        self.engine.close()
