"""Answers in OpenAI's form: one object, or a stream of server-sent events.

data: {... "delta": {"role": "assistant", "content": ""}}
: longfuse read section 3, 12000 of 480000 characters          a comment: clients pass over it
data: {... "delta": {"content": "Bor"}}
data: {... "delta": {}, "finish_reason": "stop"}
data: {... "choices": [], "usage": {...}}                       if it was asked for
data: [DONE]
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flows.serve_errors import ApiError
from flows.serve_job import Done, Event, Failed, Job, Read
from flows.serve_text import Delta
from stages.common.errors import EnvironmentFailureError, UserError

BEAT_SECONDS = 10.0  # of silence, then a comment
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """What all parts of an answer have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def usage(self, done: Done) -> dict[str, Any]:
        return self._object("chat.completion.chunk", []) | {"usage": _usage(done)}

    def whole(self, done: Done) -> dict[str, Any]:
        message = {"role": "assistant", "content": done.content, "refusal": None}
        if done.reasoning:
            message["reasoning_content"] = done.reasoning.strip()
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason}
        return self._object("chat.completion", [choice]) | {"usage": _usage(done), "longfuse": extension(done)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _usage(done: Done) -> dict[str, int]:
    total = done.prompt_tokens + done.completion_tokens
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": total,
    }


def extension(done: Done) -> dict[str, Any]:
    """How it was answered, and what went wrong while reading."""
    return {"mode": "agent" if done.counters else "one_pass", **done.counters}


def api_error(error: Exception) -> ApiError:
    """What a client is told about an error of ours; the details of an unexpected one stay in the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    logger.error("a request failed", exc_info=error)
    if isinstance(error, EnvironmentFailureError):
        return ApiError(500, f"the engine failed: {error}", code="engine_failed")
    return ApiError(500, "the server failed on this request; its log says why.", code="internal_error")


@asynccontextmanager
async def follow(job: Job, receive: Receive) -> AsyncIterator[AsyncIterator[Event | None]]:
    """The job's events up to its last one; None after a silence. Ends early if the client goes.

    A job that is not done at its deadline is given up, and has failed.

    However the block is left, a job that has not ended is given up.
    """
    gone = asyncio.create_task(_disconnected(receive))

    async def events() -> AsyncGenerator[Event | None, None]:
        next_event = asyncio.ensure_future(job.events.get())
        try:
            while True:
                patience = min(BEAT_SECONDS, job.deadline.left)
                await asyncio.wait({next_event, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                ended = next_event.done() and isinstance(next_event.result(), Done | Failed)
                if not job.deadline.left and not ended:
                    error = job.deadline.error()
                    job.cancel(error.message)
                    yield Failed(error)
                    return
                if next_event.done():
                    event = next_event.result()
                    yield event
                    if isinstance(event, Done | Failed):
                        return
                    next_event = asyncio.ensure_future(job.events.get())
                elif gone.done():
                    job.cancel()
                    logger.info("the client has gone; its answer is given up")
                    return
                else:
                    yield None
        finally:
            next_event.cancel()

    stream = events()
    try:
        yield stream
    finally:
        job.cancel()
        gone.cancel()
        await stream.aclose()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def whole_answer(job: Job, head: Head, receive: Receive) -> dict[str, Any] | None:
    """The answer as one object; None if the client went. ApiError if it failed."""
    try:
        async with follow(job, receive) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise api_error(event.error)
                if isinstance(event, Done):
                    return head.whole(event)
    except asyncio.CancelledError:  # only a server that is being stopped cancels us
        raise stopping() from None
    return None


def stopping() -> ApiError:
    """What those are told whose answer was not ready in time."""
    return ApiError(503, "the server is being stopped.", code="server_stopping", headers={"Connection": "close"})


class StreamedAnswer(Response):
    """The answer as server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, head: Head, include_usage: bool) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._job = job
        self._head = head
        self._include_usage = include_usage

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client goes."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with follow(self._job, receive) as events:
                await self._send(send, self._event(self._head.chunk({"role": "assistant", "content": ""})))
                async for event in events:
                    await self._send(send, self._bytes(event))
        except asyncio.CancelledError:  # only a server that is being stopped cancels us
            await self._send(send, self._event(stopping().body()))
        await send({"type": "http.response.body", "body": b""})

    @staticmethod
    async def _send(send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})

    def _bytes(self, event: Event | None) -> bytes:
        if event is None:
            return b": longfuse is working\n\n"
        if isinstance(event, Read):
            return f": longfuse read section {event.turn}, {event.end} of {event.total} characters\n\n".encode()
        if isinstance(event, Failed):
            return self._event(api_error(event.error).body())
        if isinstance(event, Delta):
            texts = {"content": event.content, "reasoning_content": event.reasoning}
            return self._event(self._head.chunk({name: text for name, text in texts.items() if text}))
        end = self._event(self._head.chunk({}, event.finish_reason) | {"longfuse": extension(event)})
        if self._include_usage:
            end += self._event(self._head.usage(event))
        return end + b"data: [DONE]\n\n"

    def _event(self, value: dict[str, Any]) -> bytes:
        if self._include_usage and "choices" in value:
            value = {"usage": None, **value}
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
