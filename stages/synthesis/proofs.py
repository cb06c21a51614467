"""Proofs from facts: the rows a question read, and re-deriving its answer from its evidence alone.

A row of a proof is a fact with its place: {document_id, entity, attribute, period, value, unit, start, end, labels}. It
holds if [start, end) lies inside one of the question's evidence spans, if the number parsed from those characters is
`value` in `unit` (or the text is `value`), and if every label (heading, table row) stands in the document's evidence.

- {kind: sql, sql, rows}: the rows become the table `facts`, the SQL is executed again on them;
- {kind: option, rows}: the one option that equals the row's text;
- {kind: path, hops}: each hop is found again and hands its result to the next (ops: select, alias, describe, compare, value).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.common.errors import InputError
from stages.common.records import Evidence, QAPair, Span
from stages.common.text import collapse_blanks
from stages.synthesis.corpus_table import select_from
from stages.synthesis.entities import normalise_name
from stages.synthesis.facts import Fact
from stages.synthesis.lists import choose, parse_list
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


def rederive_sql(qa: QAPair, text_of: TextOf) -> str | None:
    """Execute the proof's SQL on a table of its rows, after each row was checked against the evidence."""
    rows = qa.proof["rows"]
    if not 0 < len(rows) <= MAX_ROWS or not all(row_holds(row, qa, text_of) for row in rows):
        return None
    try:
        return select_from(rows, qa.proof["sql"])
    except InputError:
        return None


def rederive_option(qa: QAPair, text_of: TextOf) -> str | None:
    """The letter of the only option that says what the row's characters say."""
    row = qa.proof["rows"][0]
    text = row_text(row, qa, text_of)
    if text is None or not row_holds(row, qa, text_of):
        return None
    matching = [letter for letter, choice in zip(LETTERS, qa.choices, strict=True) if choice == collapse_blanks(text)]
    return matching[0] if len(matching) == 1 else None


def rederive_path(qa: QAPair, text_of: TextOf) -> str | None:
    """Follow the hops from the question to the answer. None where a hop does not hold."""
    current: str | None = None
    for hop in qa.proof["hops"]:
        if current is not None and hop["op"] != "compare" and hop.get("from") != current:
            return None
        current = _HOPS[hop["op"]](hop, qa, text_of)
        if current is None:
            return None
    return current


def _select(hop: Row, qa: QAPair, text_of: TextOf) -> str | None:
    """An item of a list: "Libya 989 km; Mali 1,359 km" by its number, the largest or the smallest."""
    items = parse_list(hop["row"]["value"]) if row_holds(hop["row"], qa, text_of) else None
    item = choose(items, hop["by"], hop.get("value")) if items else None
    return item.name if item is not None else None


def _alias(hop: Row, qa: QAPair, text_of: TextOf) -> str | None:
    """From the name in a list to the entity: the same name, or one that the entity's document gives."""
    if normalise_name(hop["from"]) == normalise_name(hop["to"]):
        return str(hop["to"])
    text = row_text(hop["row"], qa, text_of) if "row" in hop else None
    if text is None or hop["row"]["entity"] != hop["to"]:
        return None
    names = {normalise_name(name) for name in text.split(" or ")}
    return str(hop["to"]) if normalise_name(hop["from"]) in names else None


def _describe(hop: Row, qa: QAPair, text_of: TextOf) -> str | None:
    """The entity that a value in the question belongs to."""
    row = hop["row"]
    return str(row["entity"]) if row_holds(row, qa, text_of) and row["value"] in qa.question else None


def _compare(hop: Row, qa: QAPair, text_of: TextOf) -> str | None:
    """The entity with the largest or smallest value among the rows."""
    rows = hop["rows"]
    if not 1 < len(rows) <= MAX_ROWS or not all(row_holds(row, qa, text_of) for row in rows):
        return None
    if len({row["unit"] for row in rows}) != 1:
        return None
    order = "DESC" if hop["by"] == "max" else "ASC"
    try:
        return select_from(rows, f"SELECT entity FROM facts ORDER BY value {order}, entity LIMIT 1")
    except InputError:
        return None


def _value(hop: Row, qa: QAPair, text_of: TextOf) -> str | None:
    """The answer: a value of the entity that the hops before have found."""
    row = hop["row"]
    return str(row["value"]) if row["entity"] == hop["from"] and row_holds(row, qa, text_of) else None


_HOPS = {"select": _select, "alias": _alias, "describe": _describe, "compare": _compare, "value": _value}
