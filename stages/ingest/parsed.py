"""What readers return: documents, and what could not be used or had to be mended."""

from __future__ import annotations

from pydantic import Field

from stages.common.records import Record, SourceFile
from stages.common.text import collapse_blanks
from stages.ingest.clean import clean, resolve_entities
from stages.ingest.reasons import DropReason

MAX_TITLE_CHARACTERS = 200
_PROSE = frozenset({"text", "markdown", "html", "latex", "pdf", "dialogue", "csv", "xlsx", "parquet"})  # python is code


class Parsed(Record):
    """One cleaned document, before it has an id.

    part: number of the line, dialogue or row it came from, else None.
    """

    part: int | None = None
    title: str
    text: str
    format: str
    files: list[SourceFile] = Field(default_factory=list)


class Problem(Record):
    """A file or line that could not be used."""

    path: str
    reason: DropReason
    detail: str


class Note(Record):
    """Something that was done to a file that is used all the same: decoded from another encoding, lines left out."""

    path: str
    note: str


class ParsedUnit(Record):
    """All that came out of one unit."""

    documents: list[Parsed]
    problems: list[Problem] = Field(default_factory=list)
    notes: list[Note] = Field(default_factory=list)


def parsed(title: str, text: str, format_name: str, part: int | None = None) -> Parsed:
    """A document of cleaned text; in prose, entities of HTML are resolved. Raises UnusableError (bad_unicode)."""
    if format_name in _PROSE:
        title, text = resolve_entities(title), resolve_entities(text)
    title = collapse_blanks(clean(title))[:MAX_TITLE_CHARACTERS]
    return Parsed(part=part, title=title, text=clean(text), format=format_name)
