"""What keeps `longfuse serve` from being used up: a number of answers at a time, a size for each request, a time for it and for its answer."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from flows.serve_errors import ApiError

BODY_SECONDS = 120.0  # to send a request
DRAIN_SECONDS = 5.0
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Slots:
    """Answers at a time. Used in one event loop.

    idle: set while nothing is under way.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._mean_seconds = 5.0
        self.idle = asyncio.Event()
        self.idle.set()

    def take(self) -> Callable[[], None]:
        """Take a slot; returns what gives it back (once, more calls do nothing). ApiError 429 if all are taken."""
        if self._used >= self._limit:
            seconds = max(1, min(60, round(self._mean_seconds / 2)))
            raise ApiError(
                429,
                f"{self._limit} requests are being answered, as many as this server takes. Try again in {seconds} s.",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )
        self._used += 1
        self.idle.clear()
        started: float | None = time.monotonic()

        def give_back() -> None:
            nonlocal started
            if started is None:
                return
            self._mean_seconds += 0.2 * (time.monotonic() - started - self._mean_seconds)
            started = None
            self._used -= 1
            if not self._used:
                self.idle.set()

        return give_back


class Deadline:
    """When an answer is given up, from now on. seconds: the limit."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, 0 when it is over."""
        return max(0.0, self._at - time.monotonic())

    def error(self) -> ApiError:
        """What the client is told. Clients of OpenAI's kind do not send the request again by themselves."""
        return ApiError(
            504,
            f"the answer was not ready after {self.seconds:g} s, the most that this server takes for one "
            "(--max-answer-seconds): it was given up. Ask about a shorter document, or have the limit raised.",
            code="time_limit_exceeded",
            headers={"x-should-retry": "false"},
        )


def check_access(request: Request, api_key: str | None) -> None:
    """ApiError 401 without the right key; without any key 403 for a request that a foreign web page may have made."""
    if api_key is None:
        # A page whose name was made to point here (DNS rebinding) names itself as the host.
        if request.url.hostname not in _LOOPBACK_NAMES:
            raise ApiError(403, "this server has no API key, so it answers requests to localhost only.")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), api_key.encode()):
        raise ApiError(
            401,
            "the API key is missing or wrong: send it as `Authorization: Bearer KEY`.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The body. ApiError: 400 if it is not declared as JSON, 408 if it comes too slowly, 413 if it is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Also what a browser asks permission for before it sends it for another site's page.
        raise ApiError(400, "the body must be sent as Content-Type: application/json.")
    if int(request.headers.get("content-length", "0")) > most_bytes:
        raise await _too_large(request, most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for block in request.stream():
                body += block
                if len(body) > most_bytes:
                    raise await _too_large(request, most_bytes)
    except TimeoutError:
        raise ApiError(408, f"the request was not complete after {BODY_SECONDS:.0f} s.") from None
    return bytes(body)


async def _too_large(request: Request, most_bytes: int) -> ApiError:
    """The error, after the rest was read for a while: a client that still sends would not see an answer."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while (message := await request.receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except (TimeoutError, ClientDisconnect):
        pass
    return ApiError(
        413,
        f"the request is over {most_bytes} bytes, the most that this server takes (--max-request-mb).",
        code="request_too_large",
        headers={"Connection": "close"},
    )
