"""Structured replies: what is read from a model's text, what is refused, and within which bounds."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from stages.common.chat import ChatFailedError, ChatReply, Usage
from stages.common.chat_json import MAX_DEPTH, MAX_JSON_CHARACTERS, json_values, reply_as, schema_of


class Item(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str = Field(max_length=10)


class Verdict(BaseModel):
    right: bool
    items: list[Item] = []


def reply(text: str, finish_reason: str = "stop") -> ChatReply:
    return ChatReply(text, finish_reason, Usage(1, 1))


@pytest.mark.parametrize(
    "text",
    [
        '{"right": true}',
        'Here it is:\n```json\n{"right": true}\n```\nAnything else?',
        '<think>{"right": false}</think>{"right": true}',
        'As [1] says, {not json} but {"right": true}.',
        '{"wrong": 1} {"right": true} {"right": false}',
        '{"right": true, "note": "a } in \\" a string {"}',
        '{ {"right": true}',
    ],
)
def test_the_first_value_that_fits_is_taken(text):
    assert reply_as(reply(text), Verdict).right is True


@pytest.mark.parametrize(
    "text", ["", "yes", "{", '{"right": }', '{"right": NaN}', "[true]", '{"right": "maybe so"}', "{" * 1000]
)
def test_what_does_not_fit_is_malformed_or_too_deep(text):
    with pytest.raises(ChatFailedError) as caught:
        reply_as(reply(text), Verdict)
    assert caught.value.reason in ("malformed", "oversized")


def test_a_cut_off_reply_is_truncated_even_if_it_holds_a_value():
    with pytest.raises(ChatFailedError) as caught:
        reply_as(reply('{"right": true}', "length"), Verdict)
    assert caught.value.reason == "truncated"


def test_size_depth_and_time_are_bounded():
    for text in ("x" * (MAX_JSON_CHARACTERS + 1), "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)):
        with pytest.raises(ChatFailedError) as caught:
            reply_as(reply(text), Verdict)
        assert caught.value.reason == "oversized"
    assert list(json_values("[" * MAX_DEPTH + "]" * MAX_DEPTH))
    started = time.process_time()
    for hostile in ("{}" * 90_000, '{"' * 90_000, "[\\" * 90_000, '"' * 190_000, "{[" * 90_000):
        with pytest.raises(ChatFailedError):
            reply_as(reply(hostile), Verdict)
    assert time.process_time() - started < 5


def test_a_reason_names_the_field_but_not_the_value():
    with pytest.raises(ChatFailedError, match=r"items\.0\.name") as caught:
        reply_as(reply('{"right": true, "items": [{"name": "sensitive-value"}]}'), Verdict)
    assert "sensitive" not in str(caught.value)


@given(st.text(alphabet='{}[]",:\\ abtrue1\n', max_size=300))
def test_any_text_gives_a_record_or_a_typed_failure(text):
    with contextlib.suppress(ChatFailedError):
        assert isinstance(reply_as(reply(text), Verdict), Verdict)


def test_a_schema_is_flat_strict_and_free_of_what_strict_endpoints_refuse():
    assert schema_of(Verdict) == {
        "type": "object",
        "properties": {
            "right": {"type": "boolean"},
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["right", "items"],
        "additionalProperties": False,
    }
