"""Turns of a conversation, found in a dialogue document's text with their character offsets.

Three forms occur: `[12] Speaker: text` (numbered), `user: text` (roles) and `Name: text` (names that speak at least twice). What
follows a turn's line without a blank line or heading belongs to the turn. One pass over the lines; no line is searched beyond its
first 140 characters for a speaker.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass

from stages.common.text import collapse_blanks

_NUMBERED = re.compile(r"\[\d{1,7}\] (?P<speaker>[^\n]{1,120}?):(?: |$)")
_NAMED = re.compile(r"(?P<speaker>[^\W\d_][^:\n\[\]{}<>#|]{0,59}):(?: |$)")
_HEADING = re.compile(r"#{1,6} ")
_ROLES = frozenset({"user", "assistant", "agent", "customer", "system", "tool", "human", "bot"})
_LOOKED_AT = 140  # characters of a line


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

    @property
    def line(self) -> str:
        """Speaker and text on one line, as a transcript shows them."""
        return f"{self.speaker}: {collapse_blanks(self.text)}"


def parse_turns(text: str) -> list[Turn]:
    """The turns of a dialogue in order; an empty list if the text has none of the three forms."""
    lines = text.splitlines(keepends=True)
    pattern = _NUMBERED if any(_NUMBERED.match(line[:_LOOKED_AT]) for line in lines) else _NAMED
    found = [_match(pattern, line) for line in lines]
    speakers = _speakers([match["speaker"] for match in found if match], numbered=pattern is _NUMBERED)
    places: list[tuple[str, int, int, int]] = []
    position, is_open = 0, False
    for line, match in zip(lines, found, strict=True):
        body_end = position + len(line.rstrip())
        if match and match["speaker"] in speakers:
            said = line[match.end() :]
            begin = min(position + match.end() + len(said) - len(said.lstrip()), max(body_end, position + match.end()))
            places.append((match["speaker"], position, min(begin, body_end), body_end))
            is_open = True
        elif body_end == position or _HEADING.match(line):
            is_open = False
        elif is_open:
            speaker, start, begin, _ = places[-1]
            places[-1] = (speaker, start, begin, body_end)
        position += len(line)
    return [Turn(speaker, text[begin:end], start, begin, end) for speaker, start, begin, end in places]


def _match(pattern: re.Pattern[str], line: str) -> re.Match[str] | None:
    return pattern.match(line[:_LOOKED_AT].rstrip("\r\n"))


def _speakers(names: list[str], *, numbered: bool) -> frozenset[str]:
    """Who speaks. In the unnumbered forms a line such as "Price: 5" must not make a speaker."""
    times = Counter(names)
    if numbered:
        return frozenset(times)
    roles = frozenset(name for name in times if name.lower() in _ROLES)
    return roles if len(roles) >= 2 else frozenset(name for name in times if times[name] >= 2)


def opening(text: str, words: int) -> str:
    """The first words of a turn, lower-case, without punctuation at their ends."""
    return " ".join(word.strip(string.punctuation) for word in text.lower().split(None, words)[:words])


def ordinal(number: int) -> str:
    """1 -> 1st, 12 -> 12th, 22 -> 22nd."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
