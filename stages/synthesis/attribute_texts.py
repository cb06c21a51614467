"""What documents say under the headings of an attribute, whether or not a triple was read from it.

A vague description ("independence falls in July") is only safe if it excludes every entity of the kind, also those whose text
was too long or too tangled for a triple: "4 July 1776 (declared); 3 September 1783 (recognized)". So every heading is noted
as columns (hash of the attribute and of its parent, document, characters) and its text is read when it is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from stages.common.storage import DocumentStore
from stages.synthesis.facts import name_attribute
from stages.synthesis.markdown import Heading, sections

_SCHEMA = {"key": pl.UInt64, "parent": pl.UInt64, "document": pl.UInt32, "start": pl.UInt32, "end": pl.UInt32}


@dataclass(frozen=True)
class AttributeTexts:
    """The headings of some documents. `places` has the columns of _SCHEMA; `document` is an index into `document_ids`."""

    document_ids: list[str]
    places: pl.DataFrame

    def said(self, attribute: str, documents: DocumentStore) -> Iterator[tuple[str, str]]:
        """(document id, text) of every heading of the attribute.

        Where a document lacks it but has the heading above it, that one's text counts: "Population" for "population (total)".
        """
        own = self.places.filter(pl.col("key") == _key(attribute))
        parents = own.filter(pl.col("parent") > 0)["parent"].unique().implode()
        above = self.places.filter(
            pl.col("key").is_in(parents) & ~pl.col("document").is_in(own["document"].unique().implode())
        )
        for index, start, end in pl.concat([own, above]).select("document", "start", "end").iter_rows():
            document_id = self.document_ids[index]
            text = documents[document_id].text[start:end].strip()
            if text:
                yield document_id, text


def attribute_texts(document_ids: Sequence[str], documents: DocumentStore) -> AttributeTexts:
    """Note every heading of the documents."""
    columns: dict[str, list[int]] = {name: [] for name in _SCHEMA}
    for index, document_id in enumerate(document_ids):
        text = documents[document_id].text
        for key, parent, start, end in _headings(text):
            for name, value in zip(_SCHEMA, (key, parent, index, start, end), strict=True):
                columns[name].append(value)
    return AttributeTexts(list(document_ids), pl.DataFrame(columns, schema=_SCHEMA))


def _headings(text: str) -> Iterator[tuple[int, int, int, int]]:
    """(key, parent's key or 0, start, end of the text below) of the headings of a text, named as facts.py names them."""
    found = [heading for heading, _ in sections(text)]
    ends = [*(heading.start for heading in found[1:]), len(text)][: len(found)]
    pairs = list(zip(found, ends, strict=True))
    if found and found[0].level == 1:
        pairs = pairs[1:]
    has_chapters = len({heading.level for heading, _ in pairs}) >= 3
    path: list[Heading] = []
    for heading, end in pairs:
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        parts = [part.title for part in (path[1:] if has_chapters and len(path) > 1 else path)]
        parent = _key(_attribute(parts[:-1])) if len(parts) > 1 else 0
        yield _key(_attribute(parts)), parent, heading.end, end


def _attribute(path: list[str]) -> str:
    attribute, period = name_attribute(path)
    return f"{attribute} ({period})" if period else attribute


def _key(attribute: str) -> int:
    """Spellings that clusters.py reads as one relation have one key."""
    folded = " ".join(attribute.split()).strip(" :").lower()
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest(), "little") | 1
