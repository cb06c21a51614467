"""One HTTP exchange with an OpenAI-compatible endpoint: a request body out, a checked reply or a typed failure back.

The endpoint is untrusted: the reply is read up to a limit, never decompressed, never followed elsewhere (a redirect would
carry the key to another host), parsed with bounded nesting, and freed of control characters and of the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from stages.common.chat import ChatFailedError, ChatReply, EndpointError, FailureReason, FinishReason, Usage
from stages.common.chat_json import bounded_loads

MAX_REPLY_BYTES = 4 << 20
_MAX_ERROR_BYTES = 16 << 10
_SHOWN_CHARACTERS = 200
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class TryAgainError(Exception):
    """The endpoint may answer later. after_seconds: what its Retry-After says."""

    def __init__(self, reason: FailureReason, detail: str, after_seconds: float | None = None) -> None:
        self.reason: FailureReason = reason
        self.detail = detail
        self.after_seconds = after_seconds
        super().__init__(detail)


class ParameterRefusedError(Exception):
    """The endpoint does not know one of the body's parameters; it can be asked without."""

    def __init__(self, parameter: str, detail: str) -> None:
        self.parameter = parameter
        self.detail = detail
        super().__init__(detail)


def redacted(text: str, api_key: str | None) -> str:
    """The text without the key."""
    return text.replace(api_key, "[key]") if api_key else text


def readable(text: str) -> str:
    """The text as it may be kept: no lone surrogates, control or invisible direction characters."""
    return _UNREADABLE.sub("", text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n"))


async def post_chat(
    client: httpx.AsyncClient, url: str, body: Mapping[str, Any], api_key: str | None, estimate: Usage
) -> ChatReply:
    """Ask once. estimate: tokens to count if the reply does not say (or says something impossible).

    Raises TryAgainError, ParameterRefusedError, ChatFailedError or EndpointError; httpx errors of the connection pass.
    """
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    async with client.stream("POST", url, json=body, headers=headers) as response:
        if response.status_code != 200:
            text = (await _read(response, _MAX_ERROR_BYTES, whole=False)).decode("utf-8", "replace")
            raise _failure(response, redacted(text, api_key), body)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise ChatFailedError("malformed", f"the reply is encoded as {encoding[:20]!r}, which was not asked for")
        raw = await _read(response, MAX_REPLY_BYTES, whole=True)
    reply = parse_reply(raw.decode("utf-8", "replace"), estimate)
    return replace(reply, text=redacted(reply.text, api_key))


async def _read(response: httpx.Response, limit: int, *, whole: bool) -> bytes:
    """At most `limit` raw bytes. If `whole`, more of them are a ChatFailedError."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > limit:
            if whole:
                raise ChatFailedError("oversized", f"the reply is larger than {limit} bytes")
            break
    return b"".join(parts)[:limit]


def _failure(response: httpx.Response, text: str, body: Mapping[str, Any]) -> Exception:
    """What a status other than 200 means."""
    status = response.status_code
    said = f"status {status}: {' '.join(readable(text).split())[:_SHOWN_CHARACTERS]}"
    if status == 429:
        return TryAgainError("rate_limited", said, _retry_after(response.headers.get("retry-after")))
    if status >= 500 or status in (408, 409, 425):
        return TryAgainError("server_error", said, _retry_after(response.headers.get("retry-after")))
    if status in (401, 402, 403):
        return EndpointError(
            f"the endpoint does not accept the key or the account ({said}). Check the variable that api_key_env names."
        )
    if status in (404, 405):
        return EndpointError(f"the endpoint knows no such model or address ({said}). Check model and base_url.")
    if 300 <= status < 400:
        return EndpointError(f"the endpoint redirects elsewhere (status {status}): set base_url to its final address.")
    if status in (400, 422):
        for parameter in ("response_format", "max_tokens", "seed", "temperature", "top_p"):
            if parameter in body and re.search(rf"\b{parameter}\b", text):
                return ParameterRefusedError(parameter, said)
    return ChatFailedError("refused", said)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or a date."""
    if value is None:
        return None
    try:
        return min(max(0.0, float(value)), 1e6)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def parse_reply(text: str, estimate: Usage) -> ChatReply:
    """The first choice of a chat completion. ChatFailedError: malformed, refused (content filter)."""
    value = bounded_loads(text)
    try:
        choice = value["choices"][0]
        content = choice["message"]["content"]
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ChatFailedError("malformed", "the reply is no chat completion") from None
    if finish == "content_filter" or (content is None and choice["message"].get("refusal")):
        raise ChatFailedError("refused", "the endpoint's content filter took the reply away")
    if isinstance(content, list):  # some servers give parts
        content = "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if content is None and finish == "length":
        content = ""  # a reasoning model that never came to its answer
    if not isinstance(content, str):
        raise ChatFailedError("malformed", "the reply holds no text")
    reason: FinishReason = "length" if finish == "length" else "stop"
    return ChatReply(readable(content), reason, _usage(value.get("usage"), estimate, content))


def _usage(value: Any, estimate: Usage, content: str) -> Usage:
    """The endpoint's count, if it is possible at all; else ours (a token has about three bytes)."""
    written = len(content.encode("utf-8", "replace")) // 3 + 1
    given = value if isinstance(value, dict) else {}
    prompt, completion = given.get("prompt_tokens"), given.get("completion_tokens")
    # A count beyond ten times our estimate is a mistake or an attempt to use up the budget.
    if type(prompt) is not int or not 0 <= prompt <= 10 * estimate.prompt_tokens:
        prompt = estimate.prompt_tokens
    if type(completion) is not int or not 0 <= completion <= 2 * estimate.completion_tokens:
        completion = min(written, estimate.completion_tokens)
    return Usage(prompt, completion)
