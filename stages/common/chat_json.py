"""Reading structured replies: a model's text as a typed record, or a counted failure.

Endpoints that know `response_format` return bare JSON; others wrap it in prose or code fences, so the first JSON value
that fits the record is taken. Untrusted input: size, nesting and the number of attempts are bounded before any parsing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stages.common.chat import ChatFailedError, ChatReply
from stages.common.text import strip_reasoning

T = TypeVar("T", bound=BaseModel)

MAX_JSON_CHARACTERS = 200_000
MAX_DEPTH = 16
_MAX_CANDIDATES = 32  # places where a value may begin
_SYNTAX = re.compile(r'["{}\[\]\\]')


def reply_as(reply: ChatReply, record: type[T]) -> T:
    """The reply as a record. ChatFailedError: truncated, oversized or malformed."""
    if reply.finish_reason == "length":
        raise ChatFailedError("truncated", f"the reply was cut off after {reply.usage.completion_tokens} tokens")
    problem = "it holds no JSON"
    for value in json_values(strip_reasoning(reply.text)):
        try:
            return record.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the reply"
            problem = f"{where[:100]}: {first['msg'][:200]}"
    raise ChatFailedError("malformed", problem)


def json_values(text: str) -> Iterator[Any]:
    """JSON objects and lists in a text, outermost ones, in order. ChatFailedError if the text or a value is too big."""
    if len(text) > MAX_JSON_CHARACTERS:
        raise ChatFailedError("oversized", f"{len(text)} characters of JSON, {MAX_JSON_CHARACTERS} are allowed")
    start, tried = 0, 0
    while tried < _MAX_CANDIDATES and (begin := re.compile(r"[{\[]").search(text, start)) is not None:
        tried += 1
        start = begin.start() + 1
        end = _balanced_end(text, begin.start())
        if end is None:
            continue
        try:
            yield json.loads(text[begin.start() : end], parse_constant=_no_constant)
        except ValueError:
            continue
        start = end


def bounded_loads(text: str) -> Any:
    """`json.loads` of untrusted text, nesting bounded first. ChatFailedError if it is no JSON or too deep."""
    opening = re.search(r"\S", text)
    if opening is not None and text[opening.start()] in "{[":
        _balanced_end(text, opening.start())
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ChatFailedError("malformed", f"no JSON: {str(error)[:120]}") from None


def _balanced_end(text: str, start: int) -> int | None:
    """Where the bracket at `start` is closed; None if it never is. ChatFailedError beyond MAX_DEPTH."""
    depth, inside_string, skip = 0, False, -1
    for match in _SYNTAX.finditer(text, start):
        place, sign = match.start(), match.group()
        if place == skip:
            continue
        if sign == "\\":
            skip = place + 1 if inside_string else -1
        elif sign == '"':
            inside_string = not inside_string
        elif inside_string:
            continue
        elif sign in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise ChatFailedError("oversized", f"JSON nested deeper than {MAX_DEPTH}")
        else:
            depth -= 1
            if depth == 0:
                return place + 1
    return None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def schema_of(record: type[BaseModel]) -> dict[str, Any]:
    """The record's JSON schema in the form that strict endpoints take: every field required, no others allowed."""
    schema = record.model_json_schema()
    schema = _inlined(schema, schema.get("$defs", {}))
    schema.pop("$defs", None)
    return schema


_UNSUPPORTED = frozenset({"title", "default", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"})


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """References replaced by what they name; keywords that strict endpoints refuse are left out (we check them)."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _inlined(field, definitions) for name, field in value.items()}
        elif key not in _UNSUPPORTED:
            result[key] = _inlined(value, definitions)
    if result.get("type") == "object" and "properties" in result:
        result["required"] = list(result["properties"])
        result["additionalProperties"] = False
    return result
