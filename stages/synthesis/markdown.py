"""Lines and headings of a document with exact offsets. Linear in the text, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_HEADING_CHARACTERS = 160


@dataclass(frozen=True)
class Line:
    """One line: `text` without its line break; `start`, `end` are its characters in the document."""

    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Heading:
    """An ATX heading. `start`, `end`: the whole line."""

    level: int
    title: str
    start: int
    end: int


def iter_lines(text: str) -> Iterator[Line]:
    """The lines of a text."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        if end < 0:
            end = len(text)
        yield Line(start, text[start:end].removesuffix("\r"))
        start = end + 1


def heading_of(line: Line) -> Heading | None:
    """The heading that a line is, or None. "## Area ##" -> level 2, "Area"."""
    text = line.text
    if not text.startswith("#") or len(text) > MAX_HEADING_CHARACTERS:
        return None
    level = len(text) - len(text.lstrip("#"))
    if level > 6 or level == len(text) or text[level] not in " \t":
        return None
    title = " ".join(text[level:].strip().rstrip("#").split())
    return Heading(level, title, line.start, line.end) if title else None


def sections(text: str) -> Iterator[tuple[Heading, list[Line]]]:
    """Each heading with the non-empty lines between it and the next heading; fenced code is skipped.

    At most the first three lines of a body are kept: nobody here needs more.
    """
    heading: Heading | None = None
    body: list[Line] = []
    fenced = False
    for line in iter_lines(text):
        if line.text.startswith("```"):
            fenced = not fenced
        found = None if fenced else heading_of(line)
        if found is not None:
            if heading is not None:
                yield heading, body
            heading, body = found, []
        elif len(body) < 3 and line.text.strip():
            body.append(line)
    if heading is not None:
        yield heading, body
