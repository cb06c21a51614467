"""Turns of a conversation, found in a dialogue document's text with their character offsets.

Three forms occur: `[12] Speaker: text` (numbered), `user: text` (roles) and `Name: text` (names that speak at least
twice). What follows a turn's line without a blank line or heading belongs to the turn.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass

_NUMBERED = re.compile(r"^\[\d{1,7}\] (?P<speaker>[^\n]{1,120}?): ?(?P<text>.*)$")
_NAMED = re.compile(r"^(?P<speaker>[^\W\d_][\w .,'’()&-]{0,59}): (?P<text>.*)$")
_HEADING = re.compile(r"^#{1,6} ")
_ROLES = frozenset({"user", "assistant", "agent", "customer", "system", "tool", "human", "bot"})


@dataclass(frozen=True)
class Turn:
    """One turn. `text` is `document[text_start:end]`, `start` is where its line begins."""

    speaker: str
    text: str
    start: int
    text_start: int
    end: int

    @property
    def is_one_line(self) -> bool:
        return "\n" not in self.text


def parse_turns(text: str) -> list[Turn]:
    """The turns of a dialogue in order; an empty list if the text has none of the three forms."""
    lines = text.splitlines(keepends=True)
    pattern = _NUMBERED if any(_NUMBERED.match(line) for line in lines) else _NAMED
    speakers = _speakers(lines, pattern)
    turns: list[Turn] = []
    position, open_turn = 0, False
    for line in lines:
        body = line.rstrip("\r\n")
        match = pattern.match(body)
        if match and match["speaker"] in speakers:
            start = position + match.start("text") + len(match["text"]) - len(match["text"].lstrip())
            turns.append(Turn(match["speaker"], "", position, start, position + len(body.rstrip())))
            open_turn = True
        elif not body.strip() or _HEADING.match(body):
            open_turn = False
        elif open_turn:
            last = turns[-1]
            turns[-1] = Turn(last.speaker, "", last.start, last.text_start, position + len(body.rstrip()))
        position += len(line)
    return [
        Turn(turn.speaker, text[turn.text_start : turn.end], turn.start, min(turn.text_start, turn.end), turn.end)
        for turn in turns
    ]


def _speakers(lines: list[str], pattern: re.Pattern[str]) -> frozenset[str]:
    """Who speaks. In the unnumbered forms a line such as "Price: 5" must not make a speaker."""
    found = Counter(match["speaker"] for line in lines if (match := pattern.match(line.rstrip("\r\n"))))
    if pattern is _NUMBERED:
        return frozenset(found)
    roles = frozenset(name for name in found if name.lower() in _ROLES)
    return roles if len(roles) >= 2 else frozenset(name for name, times in found.items() if times >= 2)


def opening(text: str, words: int) -> str:
    """The first words of a turn, lower-case, without punctuation at their ends."""
    return " ".join(word.strip(string.punctuation) for word in text.lower().split()[:words])
