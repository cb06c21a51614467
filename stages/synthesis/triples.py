"""Triples of a knowledge graph as columns: (head, relation, tail) with types, the tail's characters and its evidence.

A triple is a row of a Polars table, never a Python object: a shard's rules append to plain lists, and the lists become one
table. Departs from the paper, where an LLM reads triples off the text: rules do, so every triple has an exact span; those of
an LLM are added by knowledge_graph_llm.py in the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from stages.common.text import collapse_blanks

# head, tail:  keys of entities ("doc:general/chile", "class:rq/job.py:Job", "said:person:nils berg" for a head that a model read);
#              a tail without a key is a literal or a bare name
# tail_type:   entity, name (may be linked to an entity), text, number, date, identifier, cause, phrase
# number:      the tail's decimal as text where it is one, so that nothing is rounded
# scale:       what a table says of its numbers ("in millions")
# start, end:  the tail's characters in the document
# list_*:      the whole list value that the tail is one entry of (0, 0: no list)
# evidence:    flat start, end, start, end ...: spans that suffice to read the triple
# labels:      what the evidence must hold to name head and relation
# link:        relation of the same document's triple that proves which entity the tail's text means ("": the text itself does)
TRIPLE_SCHEMA: dict[str, Any] = {
    "head": pl.String,
    "head_name": pl.String,
    "head_type": pl.String,
    "relation": pl.String,
    "tail": pl.String,
    "tail_text": pl.String,
    "tail_type": pl.String,
    "number": pl.String,
    "unit": pl.String,
    "scale": pl.String,
    "document_id": pl.String,
    "start": pl.UInt32,
    "end": pl.UInt32,
    "list_start": pl.UInt32,
    "list_end": pl.UInt32,
    "evidence": pl.List(pl.UInt32),
    "labels": pl.List(pl.String),
    "link": pl.String,
    "rule": pl.String,
}

# A triple that only counts when asking whether another one is the only one: of a conditional import, a nested class.
SHADOW = "shadow"

MAX_TRIPLES_PER_DOCUMENT = 20_000


class TripleRows:
    """Collects the triples of documents, column by column."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in TRIPLE_SCHEMA}
        self._of_document = 0
        self.cut = False  # True if the document at hand has more triples than are kept

    def __len__(self) -> int:
        return len(self._columns["head"])

    def begin(self) -> None:
        """A new document: its own bound."""
        self._of_document = 0
        self.cut = False

    def add(
        self,
        *,
        head: str,
        head_name: str,
        head_type: str,
        relation: str,
        tail_text: str,
        tail_type: str,
        document_id: str,
        span: tuple[int, int],
        evidence: Sequence[tuple[int, int]],
        labels: Sequence[str],
        rule: str,
        tail: str = "",
        number: str = "",
        unit: str = "",
        scale: str = "",
        list_span: tuple[int, int] = (0, 0),
        link: str = "",
    ) -> None:
        """One triple; those beyond a document's bound are left out (`cut` says so)."""
        if self._of_document >= MAX_TRIPLES_PER_DOCUMENT:
            self.cut = True
            return
        self._of_document += 1
        values: dict[str, Any] = {
            "head": head,
            "head_name": head_name,
            "head_type": head_type,
            "relation": relation,
            "tail": tail,
            "tail_text": collapse_blanks(tail_text),
            "tail_type": tail_type,
            "number": number,
            "unit": unit,
            "scale": scale,
            "document_id": document_id,
            "start": span[0],
            "end": span[1],
            "list_start": list_span[0],
            "list_end": list_span[1],
            "evidence": [position for pair in evidence for position in pair],
            "labels": list(labels),
            "link": link,
            "rule": rule,
        }
        for name, value in values.items():
            self._columns[name].append(value)

    def table(self) -> pl.DataFrame:
        """The rows as a table."""
        return pl.DataFrame(self._columns, schema=TRIPLE_SCHEMA)


def document_key(document_id: str) -> str:
    """The key of the entity that a document is about."""
    return f"doc:{document_id}"
