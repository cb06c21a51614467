"""JSON dialogues: a list of messages, or {"messages": [...]}; JSONL holds one dialogue per line.

A message has `role` or `speaker`, and `content` or `text`. A turn becomes one line `role: text`, the form that the Markdown
dialogues of the corpus have, so a text cannot forge a turn by its line breaks. Turns without text (tool calls) are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stages.common.text import collapse_blanks
from stages.ingest.reasons import DropReason, UnusableError

MAX_ROLE_CHARACTERS = 64


def dialogue_from_json(text: str) -> tuple[str, str]:
    """(title or "", dialogue). Raises UnusableError (bad_json, too_deep, not_a_dialogue)."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise UnusableError(DropReason.TOO_DEEP, "JSON is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise UnusableError(DropReason.BAD_JSON, str(error)) from None
    title = ""
    if isinstance(value, dict):
        title = value["title"] if isinstance(value.get("title"), str) else ""
        value = value.get("messages")
    if not isinstance(value, list) or not value:
        raise UnusableError(DropReason.NOT_A_DIALOGUE, 'neither a list of messages nor {"messages": [...]}')
    turns = [turn for number, message in enumerate(value, start=1) if (turn := _turn(message, number))]
    return collapse_blanks(title), "\n".join(turns)


def dialogues_from_lines(text: str) -> Iterator[tuple[int, str, str | UnusableError]]:
    """(line number, title or "", dialogue or what is wrong with it) for each line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            title, dialogue = dialogue_from_json(line)
            yield number, title, dialogue
        except UnusableError as error:
            yield number, "", error


def _turn(message: Any, number: int) -> str:
    if not isinstance(message, dict):
        raise UnusableError(DropReason.NOT_A_DIALOGUE, f"message {number} is no object")
    role = message.get("role", message.get("speaker"))
    if not isinstance(role, str) or not role.strip(": \n\t"):
        raise UnusableError(DropReason.NOT_A_DIALOGUE, f"message {number} has neither role nor speaker")
    content = collapse_blanks(_content(message.get("content", message.get("text")), number))
    role = collapse_blanks(role.replace(":", " "))[:MAX_ROLE_CHARACTERS]
    return f"{role}: {content}" if content else ""


def _content(content: Any, number: int) -> str:
    """A text, null, or a list of parts of which the text parts count."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return " ".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise UnusableError(DropReason.NOT_A_DIALOGUE, f"the content of message {number} is no text")
