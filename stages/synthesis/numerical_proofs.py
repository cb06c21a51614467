"""Proofs of numerical questions: the rows that the SQL read, and re-deriving the answer from the documents alone.

    {kind: sql, sql, rows: [{document_id, entity, attribute, period, year, value, unit, start, end, labels,
                             grid: {header, line, column} for a table cell, scale: the words that state its scale}]}

Nothing here trusts the generator: the characters [start, end) are read through the evidence and parsed again, the scale
is read from its words, a cell's row and column are counted again in the header's and the row's own lines, and the SQL is
executed on these rows only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from stages.common.errors import InputError
from stages.common.records import QAPair, Span
from stages.synthesis.corpus_table import select_from
from stages.synthesis.currencies import MONEY
from stages.synthesis.numerical_figures import Figure, clean, measure_of
from stages.synthesis.quantities import parse_cell, plain
from stages.synthesis.units import base_unit, find_scale

TextOf = Callable[[Span], str]
Row = Mapping[str, Any]

MAX_ROWS = 60
MAX_JOINED_GAP = 120


def figure_row(figure: Figure) -> dict[str, Any]:
    """A figure as a row of a proof and of the corpus table."""
    row: dict[str, Any] = {
        "document_id": figure.document_id,
        "entity": figure.entity,
        "attribute": figure.fact_attribute,
        "period": figure.period,
        "year": figure.year,
        "value": plain(figure.value),
        "unit": figure.unit,
        "start": figure.start,
        "end": figure.end,
        "labels": list(figure.labels),
    }
    if figure.header is not None:
        line = next(span for span in figure.spans if span[0] <= figure.start and figure.end <= span[1])
        row["grid"] = {"header": list(figure.header), "line": list(line), "column": list(figure.column_labels)}
        row["scale"] = figure.scale
    return row


def evidence_spans(figures: Sequence[Figure]) -> list[Span]:
    """The spans that prove all figures, in order of documents and text; those near each other become one."""
    by_document: dict[str, list[tuple[int, int]]] = {}
    for figure in figures:
        by_document.setdefault(figure.document_id, []).extend(figure.spans)
    return [
        Span(document_id=document_id, start=start, end=end)
        for document_id, spans in by_document.items()
        for start, end in _joined(spans)
    ]


def _joined(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = -1, -1
    for left, right in sorted(spans):
        if start >= 0 and left - end <= MAX_JOINED_GAP:
            end = max(end, right)
            continue
        if start >= 0:
            yield start, end
        start, end = left, right
    yield start, end


def rederive_sql(qa: QAPair, text_of: TextOf) -> str | None:
    """Execute the proof's SQL on a table of its rows, after each row was read again from the evidence."""
    rows = qa.proof["rows"]
    if not 0 < len(rows) <= MAX_ROWS or not all(figure_holds(row, qa, text_of) for row in rows):
        return None
    try:
        return select_from(rows, qa.proof["sql"])
    except InputError:
        return None


def figure_holds(row: Row, qa: QAPair, text_of: TextOf) -> bool:
    """True if the question's evidence says what the row says."""
    quotes = [item for item in qa.evidence if item.document_id == row["document_id"]]
    if not any(item.start <= row["start"] < row["end"] <= item.end for item in quotes):
        return False
    texts = [text_of(item) for item in quotes]
    needed = [*row["labels"], *([row["scale"]] if row.get("scale") else [])]
    if not all(any(label in text for text in texts) for label in needed):
        return False
    quantity = parse_cell(_read(row, text_of, row["start"], row["end"]))
    if quantity is None:
        return False
    if row.get("year") is not None and not any(str(row["year"]) in label for label in row["labels"]):
        return False
    if "grid" not in row:
        factor, unit = base_unit(quantity.unit)
        return plain(quantity.value * factor) == row["value"] and unit == row["unit"]
    factor, unit = base_unit("" if quantity.unit in MONEY else quantity.unit)
    scale = find_scale(row["scale"]) if row["scale"] else None
    if row["scale"] and scale is None:
        return False
    return plain(quantity.value * (scale.factor if scale else factor)) == row["value"] and (
        unit == row["unit"] and _in_grid(row, text_of)
    )


def _in_grid(row: Row, text_of: TextOf) -> bool:
    """True if the cell stands in the row and in the column whose names the proof gives."""
    grid = row["grid"]
    line_start, line_end = grid["line"]
    line = _read(row, text_of, line_start, line_end)
    cells = _cells(line)
    offset = row["start"] - line_start
    column = next((index for index, (start, end) in enumerate(cells) if start <= offset < end), None)
    if column is None or column == 0:
        return False
    label = line[slice(*cells[0])].strip()
    named = clean(label)
    if label != row["labels"][0] or not (
        row["attribute"] in (measure_of(named), named) or row["attribute"].endswith(f": {named}")
    ):
        return False
    return _column_name(row, text_of, column) == grid["column"] and _names_period(row, grid["column"])


def _column_name(row: Row, text_of: TextOf, column: int) -> list[str]:
    """What the header's lines say above a column; an empty cell of an upper line is spanned by its left neighbour."""
    lines = _read(row, text_of, *row["grid"]["header"]).split("\n")
    lines = [line.removesuffix("\r") for line in lines if set(line.strip()) - set("|-: ")] or lines[:1]
    found: list[str] = []
    for level, line in enumerate(lines):
        texts = [line[start:end].strip() for start, end in _cells(line)]
        if column >= len(texts):
            return []
        text = texts[column]
        if not text and level < len(lines) - 1:
            text = next((texts[index] for index in range(column - 1, 0, -1) if texts[index]), "")
        if text and text not in found:
            found.append(text)
    return found


def _names_period(row: Row, column: Sequence[str]) -> bool:
    return bool(row["period"] == clean(" ".join(column)) or (row["year"] and row["period"] == str(row["year"])))


def _cells(line: str) -> list[tuple[int, int]]:
    """Where the cells of "| a | b |" stand between their bars."""
    bars = [index for index, sign in enumerate(line) if sign == "|" and (index == 0 or line[index - 1] != "\\")]
    cells = [(left + 1, right) for left, right in itertools.pairwise(bars)]
    if bars and line[bars[-1] + 1 :].strip():
        cells.append((bars[-1] + 1, len(line)))
    return cells


def _read(row: Row, text_of: TextOf, start: int, end: int) -> str:
    return text_of(Span(document_id=row["document_id"], start=start, end=end))


def decimals_of(value: Decimal) -> int:
    """Digits after the point that a decimal needs.

    >>> decimals_of(Decimal("12.50"))
    1
    """
    text = plain(value)
    return len(text.partition(".")[2])
