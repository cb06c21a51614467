"""Table cells as facts: (document, row label, column) -> number, each named once in its document.

A row and column that occur in several tables of a document with different numbers are dropped: "net sales" in dollars
here and in percent there would make a question with two answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from stages.common.records import Document, Dropped, Evidence
from stages.synthesis.facts import Fact, span_evidence
from stages.synthesis.quantities import parse_cell
from stages.synthesis.tables import Cell, Row, Table, read_tables

MAX_FACTS_PER_DOCUMENT = 4000
MAX_LABEL_CHARACTERS = 90
MAX_COLUMN_CHARACTERS = 60
MAX_ROW_CHARACTERS = 400
MAX_JOINED_GAP = 120
MIN_LETTERS = 3


def table_facts(document: Document, entity: str, dropped: list[Dropped]) -> list[Fact]:
    """The numeric cells of a document's tables. Ambiguous ones go to `dropped`, one record per row label."""
    by_key: dict[tuple[str, str], list[Fact]] = {}
    total = 0
    for table in read_tables(document, dropped):
        for fact in _facts_of(document, entity, table):
            total += 1
            if total > MAX_FACTS_PER_DOCUMENT:
                break
            by_key.setdefault(fact.key, []).append(fact)
    kept: list[Fact] = []
    ambiguous: Counter[str] = Counter()
    for facts in by_key.values():
        if len({(fact.text, fact.scale) for fact in facts}) > 1:
            ambiguous[facts[0].attribute] += 1
        else:
            kept.append(facts[0])
    for attribute, columns in ambiguous.items():
        dropped.append(
            Dropped(
                reason="ambiguous_cell",
                stage="synthesize",
                detail=f"row {attribute!r} occurs in several tables with different values in {columns} columns",
                record={"document_id": document.id},
            )
        )
    return kept


def _facts_of(document: Document, entity: str, table: Table) -> Iterator[Fact]:
    names = [_clean(" ".join(parts)) for parts in table.columns]
    columns = Counter(name.casefold() for name in names)
    labels = Counter(row.label.casefold() for row in table.rows)
    for row in table.rows:
        if row.end - row.start > MAX_ROW_CHARACTERS or not _is_name(row.label, MAX_LABEL_CHARACTERS):
            continue
        section = row.section if labels[row.label.casefold()] > 1 else None
        if labels[row.label.casefold()] > 1 and section is None:
            continue  # two rows of that name and nothing that tells them apart
        for index in range(1, len(names)):
            column, cell = names[index], row.cells[index]
            if columns[column.casefold()] == 1 and _is_column(column) and cell.quantity is not None:
                yield _fact(document, entity, table, row, section, index, cell)


def _fact(
    document: Document, entity: str, table: Table, row: Row, section: Cell | None, column: int, cell: Cell
) -> Fact:
    label = _clean(row.label)
    attribute = f"{_clean(section.text).rstrip(':')}: {label}" if section else label
    spans = [table.header, *([(section.start, section.end)] if section else []), (row.start, row.end)]
    return Fact(
        document_id=document.id,
        entity=entity,
        attribute=attribute,
        period=_clean(" ".join(table.columns[column])),
        text=cell.text,
        start=cell.start,
        end=cell.end,
        quantity=cell.quantity,
        labels=(row.label, *((section.text,) if section else ()), *table.columns[column]),
        evidence=tuple(_joined(document, spans)),
        group=f"{table.header[0]}:{label}",
        source="table",
        caption=table.caption,
        scale=table.scale,
    )


def _joined(document: Document, spans: Iterable[tuple[int, int]]) -> Iterator[Evidence]:
    """Evidence of the spans; those that lie near each other become one."""
    start, end = -1, -1
    for left, right in spans:
        if start >= 0 and left - end <= MAX_JOINED_GAP:
            end = right
            continue
        if start >= 0:
            yield span_evidence(document, start, end)
        start, end = left, right
    yield span_evidence(document, start, end)


def _clean(text: str) -> str:
    return " ".join(text.replace("\\|", "|").replace(",2", ", 2").replace(",1", ", 1").split())


def _is_name(text: str, longest: int) -> bool:
    return len(text) <= longest and sum(map(str.isalpha, text)) >= MIN_LETTERS and "`" not in text


def _is_column(text: str) -> bool:
    """A column's name; a number there means that the table has no header ("$1,000")."""
    return (
        0 < len(text) <= MAX_COLUMN_CHARACTERS
        and any(map(str.isalnum, text))
        and text.casefold() not in ("page", "pages")
        and parse_cell(text) is None
    )
