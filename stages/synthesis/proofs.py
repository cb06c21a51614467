"""Proofs from facts: the rows a question read, and re-deriving its answer from its evidence alone.

A row of a proof is a fact with its place: {document_id, entity, attribute, period, value, unit, start, end, labels}. It
holds if [start, end) lies inside one of the question's evidence spans, if the number parsed from those characters is
`value` in `unit` (or the text is `value`), and if every label (heading, table row) stands in the document's evidence.

What each kind of proof does with its rows: numerical_proofs.py (sql), multiple_choice_proofs.py (option), path_proofs.py (path).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.common.records import Evidence, QAPair, Span
from stages.common.text import collapse_blanks
from stages.synthesis.facts import Fact
from stages.synthesis.quantities import parse_cell, plain

TextOf = Callable[[Span], str]
Row = Mapping[str, Any]

LETTERS = "ABCD"
MAX_ROWS = 50


def fact_row(fact: Fact) -> dict[str, Any]:
    """A fact as a row of a proof."""
    return {
        "document_id": fact.document_id,
        "entity": fact.entity,
        "attribute": fact.attribute,
        "period": fact.period,
        "value": plain(fact.quantity.value) if fact.quantity else collapse_blanks(fact.text),
        "unit": fact.quantity.unit if fact.quantity else "",
        "start": fact.start,
        "end": fact.end,
        "labels": list(fact.labels),
    }


def joint_evidence(facts: Sequence[Fact]) -> list[Evidence]:
    """The evidence of all facts, each span once."""
    return list(dict.fromkeys(item for fact in facts for item in fact.evidence))


def row_text(row: Row, qa: QAPair, text_of: TextOf) -> str | None:
    """The characters of a row's value, or None if they or the row's labels are not in the evidence."""
    quotes = [item for item in qa.evidence if item.document_id == row["document_id"]]
    inside = any(item.start <= row["start"] < row["end"] <= item.end for item in quotes)
    found = [text_of(Span(document_id=item.document_id, start=item.start, end=item.end)) for item in quotes]
    named = all(any(label in text for text in found) for label in row["labels"])
    if not inside or not named:
        return None
    return text_of(Span(document_id=row["document_id"], start=row["start"], end=row["end"]))


def row_holds(row: Row, qa: QAPair, text_of: TextOf) -> bool:
    """True if the evidence says what the row says."""
    text = row_text(row, qa, text_of)
    if text is None:
        return False
    quantity = parse_cell(text)
    if quantity is not None and plain(quantity.value) == row["value"]:
        return quantity.unit == row["unit"]
    return row["unit"] == "" and collapse_blanks(text) == row["value"]
