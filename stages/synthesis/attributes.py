"""Attributes that a text gives values for, as keys: a heading with its parent, or the first cell of a table row.

The same key in two documents means the same attribute of two entities ("Coastline" of two countries, "Revenues" in two
filings). Keys are 64-bit hashes: the survey holds all of a corpus's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.common.records import Category, Document, QAPair
from stages.synthesis.outline import Heading, headings

_SHORT_SECTION_CHARACTERS = 400


@dataclass(frozen=True)
class Attribute:
    """Where a text names an attribute: a short section or a row is [start, end) as a whole, of a long one the heading."""

    key: int
    start: int
    end: int
    is_row: bool


def attributes(text: str) -> list[Attribute]:
    """All attributes of a text, by position."""
    found = [*_of_headings(text, headings(text)), *_of_rows(text)]
    return sorted(found, key=_start)


def attributes_of(document: Document) -> list[Attribute]:
    """All attributes of a document. Code comments look like headings, and turns of talk state no attributes: none."""
    if document.category in (Category.DIALOGUES, Category.CODE):
        return []
    return attributes(document.text)


def key_at(starts: Any, ends: Any, is_row: Any, keys: Any, position: int) -> int:
    """The attribute that governs a position: the row it is in, else the heading above; 0 if there is none.

    starts, ends, is_row, keys: one value per attribute of a document, in order (arrays or lists).
    """
    index = int(np.searchsorted(starts, position, side="right")) - 1
    if index >= 0 and is_row[index] and position <= ends[index]:
        return int(keys[index])
    while index >= 0 and is_row[index]:
        index -= 1
    return int(keys[index]) if index >= 0 else 0


def asked_keys(pair: QAPair, key_of_place: Callable[[str, int], int]) -> list[int]:
    """The attributes that a question's evidence states, each once. key_of_place: (document id, position) -> key or 0."""
    # The last line of the evidence holds the value; what stands above it may be a parent's heading.
    found = [key_of_place(e.document_id, max(e.start, e.end - 1)) for e in pair.evidence]
    return [key for key in dict.fromkeys(found) if key]


def _of_headings(text: str, found: list[Heading]) -> Iterator[Attribute]:
    above: list[Heading] = []  # the headings that govern this one, levels rising
    for index, heading in enumerate(found):
        while above and above[-1].level >= heading.level:
            above.pop()
        parent = above[-1] if above and above[-1].level > 1 else None
        above.append(heading)
        following = found[index + 1].start if index + 1 < len(found) else len(text)
        end = following if following - heading.start <= _SHORT_SECTION_CHARACTERS else heading.end
        name = f"{parent.title} > {heading.title}" if parent else heading.title
        yield Attribute(key_of(name), heading.start, max(heading.end, end), is_row=False)


def _of_rows(text: str) -> Iterator[Attribute]:
    position = text.find("|") if text.startswith("|") else text.find("\n|") + 1
    while position >= 0 and text.startswith("|", position):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        key = row_key(text[position:end])
        if key:
            yield Attribute(key, position, end, is_row=True)
        if text.startswith("|", end + 1):
            position = end + 1
        else:
            following = text.find("\n|", end)
            position = following + 1 if following >= 0 else -1


def row_key(line: str) -> int:
    """The key of a row whose first cell has words; 0 for another."""
    cell = line.split("|", 2)[1].strip() if line.count("|") >= 2 else ""
    return key_of(f"| {cell}") if any(character.isalpha() for character in cell) else 0


def key_of(name: str) -> int:
    """The hash of a name, whatever its case; never 0."""
    return int.from_bytes(hashlib.blake2b(name.lower().encode(), digest_size=8).digest(), "little") | 1


def _start(attribute: Attribute) -> tuple[int, bool]:
    return attribute.start, attribute.is_row
