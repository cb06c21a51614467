"""A chat request in OpenAI's form, checked: what is supported, what is ignored, what is refused.

A parameter that would change the answer and cannot be honoured is an error that names it, never silently dropped. The
three tables below say all that docs/serve.md says.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.serve_errors import ApiError, bad_request

Mode = Literal["auto", "one_pass", "agent"]

# No effect on the answer: taken and left alone.
_IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
# Not supported, but these values ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ChatMessage:
    """A message: its texts in order, one per part."""

    role: str
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChatCall:
    """A checked request. None: the server's default."""

    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    mode: Mode


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # a padding against eavesdroppers that we do not add


class _Extension(_Strict):
    mode: Mode = "auto"


class _Body(_Strict):
    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    longfuse: _Extension | None = None


def parse_chat(body: bytes) -> ChatCall:
    """The request in a body. ApiError with status 400 that names the field to blame."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise bad_request('the body must be a JSON object: {"model": ..., "messages": [...]}.')
    try:
        asked = _Body.model_validate({key: entry for key, entry in value.items() if not _passed_over(key, entry)})
    except ValidationError as error:
        raise _refusal(error) from None
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise bad_request("give max_completion_tokens or max_tokens, not both.", "max_tokens")
    if asked.stream_options is not None and not asked.stream:
        raise bad_request("stream_options goes with stream: true only.", "stream_options")
    return ChatCall(
        model=asked.model,
        messages=_messages(asked.messages),
        max_tokens=asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=_stops(asked.stop),
        stream=bool(asked.stream),
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        mode=asked.longfuse.mode if asked.longfuse is not None else "auto",
    )


def _passed_over(key: str, value: Any) -> bool:
    """True for a parameter that asks for nothing. ApiError for one that asks for what is not there."""
    if key in _IGNORED:
        return True
    if key in _NEUTRAL:
        # 1 == True in Python, not in JSON.
        if value is None or any(value == known and type(value) is type(known) for known in _NEUTRAL[key]):
            return True
        raise bad_request(f"{key} is not supported: leave it out.", key, "unsupported_parameter")
    if key not in _Body.model_fields:
        near = difflib.get_close_matches(key, [*_Body.model_fields, *_NEUTRAL, *_IGNORED], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise bad_request(f"unknown parameter {key[:100]!r}.{hint}", key[:100], "unknown_parameter")
    return False


def _refusal(error: ValidationError) -> ApiError:
    """The first thing that is wrong, with its place as `messages[0]`, `stream_options.include_usage`."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [part for part in first["loc"] if part not in ("str", "list[str]")]  # a union names its members
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "missing":
        return bad_request(f"{param} is missing.", param, "missing_required_parameter")
    return bad_request(f"{param}: {first['msg'][0].lower()}{first['msg'][1:]}.", param, "invalid_value")


def _messages(given: list[dict[str, Any]]) -> tuple[ChatMessage, ...]:
    """The conversation, which must end with a question."""
    messages = tuple(_message(value, f"messages[{number}]") for number, value in enumerate(given))
    if messages[-1].role != "user" or not any(text.strip() for text in messages[-1].texts):
        raise bad_request(
            "the last message must be the user's and hold the question.", f"messages[{len(messages) - 1}]"
        )
    return messages


def _message(value: dict[str, Any], place: str) -> ChatMessage:
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        shown = role[:40] if isinstance(role, str) else role if role is None else type(role).__name__
        raise bad_request(
            f"the role {shown!r} is not supported: use system, developer, user or assistant.", f"{place}.role"
        )
    for key, entry in value.items():
        if key not in ("role", "content", "name", "refusal", "reasoning_content") and entry not in (None, [], {}):
            raise bad_request(f"{place}.{key[:100]} is not supported: only texts are read.", f"{place}.{key[:100]}")
    content = value.get("content")
    if isinstance(content, str):
        return ChatMessage(_ROLES[role], (_text(content),))
    if not isinstance(content, list) or not content:
        raise bad_request("content must be a text or a list of text parts.", f"{place}.content")
    return ChatMessage(
        _ROLES[role], tuple(_part(part, f"{place}.content[{number}]") for number, part in enumerate(content))
    )


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
        shown = kind[:40] if isinstance(kind, str) else type(part).__name__
        raise bad_request(f"a part of kind {shown!r} is not supported: this model reads text parts only.", place)
    return _text(part["text"])


def _text(text: str) -> str:
    """JSON may hold halves of characters, which no tokenizer takes."""
    return _SURROGATE.sub("\ufffd", text)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > 4 or not all(0 < len(text) <= 256 for text in stops):
        raise bad_request("stop takes up to four texts of 1 to 256 characters.", "stop")
    return tuple(map(_text, stops))
