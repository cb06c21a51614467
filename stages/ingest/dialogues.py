"""Dialogues in JSON, in the shapes that data sets use.

    [message, ...]                                       one dialogue
    {"messages" | "turns" | "conversations" | ...: [message, ...], "title": ...}
    {"sessions" | "haystack_sessions": [[message, ...], ...], "dates": [...]}    one dialogue of several sessions
    [any of these, ...]                                  several dialogues

A message has a speaker (`role`, `speaker`, `from`, ...) and a text (`content`, `text`, `value`, ...). A turn becomes one line
`role: text`, the form that the Markdown dialogues of the corpus have, so a text cannot forge a turn by its line breaks. Turns
without text (tool calls) are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stages.common.text import collapse_blanks
from stages.ingest.reasons import DropReason, UnusableError

MESSAGE_KEYS = ("messages", "turns", "conversation", "conversations", "dialogue", "dialog", "utterances", "log", "chat")
SESSION_KEYS = ("sessions", "haystack_sessions")
_DATES_KEYS = ("dates", "session_dates", "haystack_dates")
_DATE_KEYS = ("date", "datetime", "timestamp", "time")
_ROLE_KEYS = ("role", "speaker", "from", "author", "sender", "name", "user")
_TEXT_KEYS = ("content", "text", "value", "utterance", "message")
_TITLE_KEYS = ("title", "topic")

MAX_ROLE_CHARACTERS = 64


@dataclass(frozen=True)
class Dialogue:
    """`title` is empty if none is given."""

    title: str
    text: str


def parse_json(text: str) -> Any:
    """A JSON value. Raises UnusableError (bad_json, too_deep)."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UnusableError(DropReason.TOO_DEEP, "JSON is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise UnusableError(DropReason.BAD_JSON, str(error)) from None


def dialogues_of(value: Any) -> list[Dialogue | UnusableError]:
    """The dialogues of a JSON value; one that is damaged stands as its error among several.

    Raises UnusableError (not_a_dialogue) if the value as a whole is none.
    """
    if not isinstance(value, list) or not value or not all(_is_dialogue(item) for item in value):
        return [dialogue_of(value)]
    found: list[Dialogue | UnusableError] = []
    for item in value:
        try:
            found.append(dialogue_of(item))
        except UnusableError as error:
            found.append(error)
    return found


def dialogue_of(value: Any) -> Dialogue:
    """One dialogue. Raises UnusableError (not_a_dialogue)."""
    title = ""
    if isinstance(value, dict):
        title = collapse_blanks(_first(value, _TITLE_KEYS, str) or "")
        sessions = _first(value, SESSION_KEYS, list)
        if sessions:
            return Dialogue(title, _sessions(sessions, _first(value, _DATES_KEYS, list) or []))
        value = _first(value, MESSAGE_KEYS, list)
    if not isinstance(value, list) or not value:
        raise UnusableError(DropReason.NOT_A_DIALOGUE, 'neither a list of messages nor {"messages": [...]} or the like')
    return Dialogue(title, _turns(value))


def _is_dialogue(item: Any) -> bool:
    if isinstance(item, dict):
        return any(isinstance(item.get(key), list) for key in MESSAGE_KEYS + SESSION_KEYS)
    return isinstance(item, list)


def _first(value: dict[str, Any], keys: tuple[str, ...], kind: type) -> Any:
    """The value of the first key that has one of that type; None if none has."""
    return next((value[key] for key in keys if isinstance(value.get(key), kind)), None)


def _sessions(sessions: list[Any], dates: list[Any]) -> str:
    parts = []
    for number, session in enumerate(sessions, start=1):
        date = dates[number - 1] if number <= len(dates) else None
        if isinstance(session, dict):
            date = next((session[key] for key in _DATE_KEYS if session.get(key)), date)
            session = _first(session, MESSAGE_KEYS, list)
        if not isinstance(session, list):
            raise UnusableError(DropReason.NOT_A_DIALOGUE, f"session {number} is no list of messages")
        when = f" ({collapse_blanks(str(date))[:MAX_ROLE_CHARACTERS]})" if date else ""
        parts.append(f"## Session {number}{when}\n\n{_turns(session)}")
    return "\n\n".join(parts)


def _turns(messages: list[Any]) -> str:
    return "\n".join(turn for number, message in enumerate(messages, start=1) if (turn := _turn(message, number)))


def _turn(message: Any, number: int) -> str:
    if not isinstance(message, dict):
        raise UnusableError(DropReason.NOT_A_DIALOGUE, f"message {number} is no object")
    role = _first(message, _ROLE_KEYS, str)
    if role is None or not role.strip(": \n\t"):
        raise UnusableError(DropReason.NOT_A_DIALOGUE, f"message {number} has neither role nor speaker")
    content = next((message[key] for key in _TEXT_KEYS if message.get(key) is not None), None)
    text = collapse_blanks(_content(content, number))
    role = collapse_blanks(role.replace(":", " "))[:MAX_ROLE_CHARACTERS]
    return f"{role}: {text}" if text else ""


def _content(content: Any, number: int) -> str:
    """A text, null, or a list of parts of which the text parts count."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return " ".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise UnusableError(DropReason.NOT_A_DIALOGUE, f"the content of message {number} is no text")
