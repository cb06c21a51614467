"""Sessions: the conversations of one document, each under its own heading; a document without such headings is one.

A heading opens a session if the next line that is not blank is a turn, and if it has the level of the first heading of that
kind ("# Session 4", "## Dialogue dlg-88..."). A heading inside an answer ("### Options", then a list) opens none. Sessions stand
in the order of time, as their turns do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.text import collapse_blanks
from stages.common.turns import Turn, parse_turns

_HEADING = re.compile(r"(#{1,6}) +(.{0,200})")
_LOOKED_AT = 240  # characters of a line
_OPAQUE = re.compile(r"(?=\S*\d)(?=\S*[a-zA-Z])\S{8,}|\d{7,}")  # an id that nobody reads: "dlg-881444f3-24fc"
_NAME_WORDS = 12


@dataclass(frozen=True)
class Session:
    """One conversation. `start`: where its heading begins, or its first turn if it has none (`heading` is then empty)."""

    heading: str
    start: int
    turns: tuple[Turn, ...]

    @property
    def end(self) -> int:
        return self.turns[-1].end

    @property
    def opening(self) -> str:
        """How it begins: the first turn's speaker and first words."""
        first = self.turns[0]
        return f"{first.speaker}: {' '.join(first.text.split()[:_NAME_WORDS])}"


def sessions_of(text: str) -> list[Session]:
    """The sessions of a document, or of a part of one; empty if there are no turns."""
    turns = parse_turns(text)
    if not turns:
        return []
    begins = {turn.start for turn in turns}
    found: list[tuple[int, int, str]] = []  # (where the heading begins, its level, its words)
    position, last = 0, None
    for line in text.splitlines(keepends=True):
        if position in begins:
            if last is not None:
                found.append(last)
            last = None
        elif line.strip():
            match = _HEADING.match(line[:_LOOKED_AT])
            last = (position, len(match[1]), match[2].strip()) if match else None
        position += len(line)
    heads = [(start, words) for start, level, words in found if level == found[0][1]]
    cuts = heads if heads and heads[0][0] < turns[0].start else [(turns[0].start, ""), *heads]
    sessions, index = [], 0
    for number, (start, words) in enumerate(cuts):
        until = cuts[number + 1][0] if number + 1 < len(cuts) else len(text)
        first = index
        while index < len(turns) and turns[index].start < until:
            index += 1
        sessions.append(Session(words, start, tuple(turns[first:index])))
    return [session for session in sessions if session.turns]


def session_name(sessions: Sequence[Session], session: Session) -> dict[str, str] | None:
    """How a question names one of several sessions: by its heading if that can be read, else by how it begins.

    {"heading": ...} or {"opening": ...}; None if neither tells it from the others.
    """
    for key, name in (("heading", session.heading), ("opening", session.opening)):
        readable = bool(name) and '"' not in name and not (key == "heading" and _OPAQUE.search(name))
        if readable and session_named(sessions, {key: name}) is session:
            return {key: name}
    return None


def session_named(sessions: Sequence[Session], name: Mapping[str, Any]) -> Session | None:
    """The one session of that heading or opening; None if none or several have it."""
    ((key, wanted),) = name.items()
    if key not in ("heading", "opening"):
        return None
    found = [session for session in sessions if collapse_blanks(getattr(session, key)) == collapse_blanks(str(wanted))]
    return found[0] if len(found) == 1 else None


def in_words(name: Mapping[str, str]) -> str:
    """The name as a question writes it."""
    if "heading" in name:
        return f'the session "{name["heading"]}"'
    return f'the session that begins with the turn "{name["opening"]}"'
