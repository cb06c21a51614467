"""An OpenAI-compatible chat endpoint: cache first, then bounded concurrency, budget, deadlines and retries.

A call is asked at most `attempts` times, within `attempts * timeout_seconds` and the waits between; Retry-After is
honoured (by all calls that wait) up to `longest_wait_seconds`, beyond which the call fails. A parameter that the endpoint
does not know (`response_format` of an older server, `max_tokens` of a newer one) is left out or renamed from then on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from stages.common.chat import ChatFailedError, ChatReply, EndpointError, FailureReason, Message, Usage
from stages.common.chat_breaker import Breaker
from stages.common.chat_budget import Budget
from stages.common.chat_cache import ChatCache, call_key
from stages.common.chat_http import ParameterRefusedError, TryAgainError, post_chat, redacted

logger = logging.getLogger(__name__)

CONCURRENT_CALLS = 16


@dataclass(frozen=True)
class Endpoint:
    """Where and as whom we ask."""

    base_url: str
    model: str
    timeout_seconds: float
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is repeated, and how long is waited in between (doubling, with jitter)."""

    attempts: int = 5
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0


USUAL_RETRIES = RetryPolicy()


@dataclass
class ChatLedger:
    """What a client did. seconds: duration of each call that was really made."""

    calls: int = 0
    cache_hits: int = 0
    retries: int = 0
    failures: Counter[FailureReason] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class OpenAIChat:
    """A ChatModel. Use it in `async with`; each use in an event loop of its own.

    total_seconds: bound on one call with all its retries; None: what the retry policy allows.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: ChatCache,
        budget: Budget,
        *,
        retry: RetryPolicy = USUAL_RETRIES,
        total_seconds: float | None = None,
        concurrent_calls: int = CONCURRENT_CALLS,
    ) -> None:
        self.budget = budget
        self.ledger = ChatLedger()
        self._endpoint = endpoint
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._cache = cache
        self._retry = retry
        self._total_seconds = total_seconds or retry.attempts * (endpoint.timeout_seconds + retry.longest_wait_seconds)
        self._concurrent_calls = concurrent_calls
        self._slots = asyncio.Semaphore(concurrent_calls)
        self._breaker = Breaker()
        self._running: dict[str, asyncio.Event] = {}
        self._left_out: set[str] = set()
        self._not_before = 0.0  # set by Retry-After
        self._jitter = random.Random()  # waits only; never a result
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> OpenAIChat:
        self._slots = asyncio.Semaphore(self._concurrent_calls)  # it belongs to one event loop
        # A proxy of the environment must not stand between us and a server on this very machine.
        local = urlsplit(self._url).hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(self._endpoint.timeout_seconds, pool=None),
            follow_redirects=False,
            trust_env=not local,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        response_schema: Mapping[str, Any] | None = None,
        top_p: float | None = None,
    ) -> ChatReply:
        """The reply, from the cache if this very call was made before. Raises ChatFailedError, EndpointError.

        top_p: nucleus; None: the endpoint's own.
        """
        key = call_key(
            self._endpoint.base_url,
            self._endpoint.model,
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            response_schema=response_schema,
            top_p=top_p,
        )
        while (same := self._running.get(key)) is not None:
            await same.wait()  # then its reply is in the cache, or it failed and this one tries
        done = self._running[key] = asyncio.Event()
        try:
            cached = self._cache.get(key)
            if cached is not None:
                self.ledger.cache_hits += 1
                estimate = _estimate(messages, max_tokens)
                self.budget.reserve(key, estimate.prompt_tokens, estimate.completion_tokens)
                await asyncio.sleep(0)  # as in a first run, calls begun together set aside before any is settled
                self.budget.settle(key, cached.usage)
                return cached
            body: dict[str, Any] = {
                "model": self._endpoint.model,
                "messages": [dict(message) for message in messages],
                "max_tokens": max_tokens,
                "temperature": temperature,
                "seed": seed % 2**31,
            }
            if top_p is not None:
                body["top_p"] = top_p
            if response_schema is not None:
                body["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "strict": True, "schema": response_schema},
                }
            return await self._ask(key, body, _estimate(messages, max_tokens))
        except ChatFailedError as error:
            self.ledger.failures[error.reason] += 1
            raise
        finally:
            del self._running[key]
            done.set()

    async def _ask(self, key: str, body: dict[str, Any], estimate: Usage) -> ChatReply:
        """Within the budget and a free slot: ask until there is a reply or a failure; keep the reply."""
        self.budget.reserve(key, estimate.prompt_tokens, estimate.completion_tokens)
        try:
            async with self._slots:
                self._breaker.check()
                self.ledger.calls += 1
                started = time.monotonic()
                try:
                    async with asyncio.timeout(self._total_seconds):
                        reply = await self._attempts(body, estimate)
                except TimeoutError:
                    raise ChatFailedError("timeout", f"no reply within {self._total_seconds} s") from None
                finally:
                    self.ledger.seconds.append(time.monotonic() - started)
        except BaseException as error:
            self.budget.release(key)
            if isinstance(error, ChatFailedError):
                self._breaker.failed(error)
            raise
        self._breaker.worked()
        self._cache.put(key, reply)
        self.budget.settle(key, reply.usage)
        return reply

    async def _attempts(self, body: dict[str, Any], estimate: Usage) -> ChatReply:
        last = TryAgainError("unreachable", "it was never asked")
        for attempt in range(self._retry.attempts):
            if attempt:
                self.ledger.retries += 1
                await asyncio.sleep(self._wait_seconds(attempt, last))
            await self._pause()
            try:
                return await self._attempt(body, estimate)
            except TryAgainError as error:
                last = error
                logger.debug("attempt %d: %s", attempt + 1, error.detail)
            if last.after_seconds is not None:
                if last.after_seconds > self._retry.longest_wait_seconds:
                    break  # it said not before; sooner would be rude, and we do not wait that long
                self._not_before = max(self._not_before, time.monotonic() + last.after_seconds)
        raise ChatFailedError(last.reason, last.detail)

    async def _attempt(self, body: dict[str, Any], estimate: Usage) -> ChatReply:
        """One request, or several if the endpoint does not know a parameter. TryAgainError if it may answer later."""
        assert self._client is not None, "use OpenAIChat in `async with`"
        key = self._endpoint.api_key
        while True:
            sent = _without(body, self._left_out)
            try:
                async with asyncio.timeout(self._endpoint.timeout_seconds):
                    return await post_chat(self._client, self._url, sent, key, estimate)
            except (TimeoutError, httpx.TimeoutException):
                raise TryAgainError("timeout", f"no reply within {self._endpoint.timeout_seconds} s") from None
            except (httpx.HTTPError, httpx.StreamError, OSError) as error:
                said = redacted(str(error)[:200], key)
                raise TryAgainError("unreachable", f"{type(error).__name__}: {said}") from None
            except (httpx.InvalidURL, UnicodeError) as error:
                raise EndpointError(f"base_url is no usable address: {type(error).__name__}.") from None
            except ParameterRefusedError as error:
                if error.parameter in self._left_out:
                    raise ChatFailedError("refused", error.detail) from None
                logger.warning("the endpoint does not take %r: it is left out from now on", error.parameter)
                self._left_out.add(error.parameter)

    def _wait_seconds(self, attempt: int, last: TryAgainError) -> float:
        """Backoff before attempt number `attempt` (1-based retries); a Retry-After is waited for in `_pause`."""
        if last.after_seconds is not None:
            return 0.0
        wait = min(self._retry.longest_wait_seconds, self._retry.first_wait_seconds * 2 ** (attempt - 1))
        return wait * self._jitter.uniform(0.5, 1.0)

    async def _pause(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)


def _without(body: Mapping[str, Any], left_out: set[str]) -> dict[str, Any]:
    """The body as this endpoint takes it. Newer servers call max_tokens max_completion_tokens."""
    sent = {name: value for name, value in body.items() if name not in left_out}
    if "max_tokens" in left_out:
        sent["max_completion_tokens"] = body["max_tokens"]
    return sent


def _estimate(messages: Sequence[Message], max_tokens: int) -> Usage:
    """The most that a call is likely to use: a token has about three bytes, a message eight tokens of its own."""
    size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
    return Usage(math.ceil(size / 3) + 8 * len(messages), max_tokens)
