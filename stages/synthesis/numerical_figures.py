"""Figures: numbers of documents with all that makes them comparable (schema extraction, paper section 3.2).

A figure is a table cell or a value under a heading: whose it is (entity), what it measures (attribute), when (period,
year), its value in the base unit, and the spans that prove it. Units are normalised (units.py), a table's scale ("in
millions") is applied; what the scale does not concern (per-share data, counts of shares, percentages) keeps its number.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from stages.common.records import Document
from stages.synthesis.currencies import MONEY, currencies_in
from stages.synthesis.facts import Fact
from stages.synthesis.quantities import Quantity
from stages.synthesis.tables import Cell, Row, Table
from stages.synthesis.units import Scale, base_unit, is_clear_unit

MAX_LABEL_CHARACTERS = 90
MAX_COLUMN_CHARACTERS = 60
MAX_ROW_CHARACTERS = 600
MIN_LETTERS = 3

_YEAR = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}(?![0-9])")
_MONTHS = "jan feb mar apr may jun jul aug sep sept oct nov dec january february march april june july august september october november december"
_ANNUAL_WORDS = frozenset(
    f"{_MONTHS} year years fiscal ended ending end the for as of at and fy twelve months in millions thousands billions"
    " dollars except per share data amounts ($) $ ($ us u.s. est estimate estimated percent % percentages".split()
)
_PART_OF_YEAR = re.compile(
    r"\b(?:three|six|nine|3|6|9|13|26|39)[ -](?:months?|weeks?)|months? ?ended|weeks? ended|quarter|\bq[1-4]\b|half|ytd",
    re.IGNORECASE,
)
_INTERIM = re.compile(r"\b10-Q\b|\bquarterly\b", re.IGNORECASE)
_OUTSIDE_SCALE = re.compile(
    r"shares?\b|stock units|\bper |number|percent|%|ratio|rate\b|rates\b|\byears?\b(?! ended)|margin|employees|units|days"
    r"|weighted[- ]average|dilutive|basic|diluted",
    re.IGNORECASE,
)
_PER = re.compile(r"\bper\b.*\b(?:share|unit)\b", re.IGNORECASE)
_FOOTNOTE = re.compile(r"(?: ?\((?:[0-9]{1,2}|[a-z])\))+$|[*†‡]+$")
_SAYS_NOTHING = frozenset(
    [
        "total",
        "other",
        "net",
        "basic",
        "diluted",
        "current",
        "balance",
        "beginning",
        "ending",
        "subtotal",
        "all",
        "none",
        "amount",
        "value",
        "change",
        "increase",
        "decrease",
        "average",
        "low",
        "high",
        "male",
        "female",
        "foreign",
        "domestic",
        "thereafter",
        "less",
        "plus",
        "adjustments",
        "deferred",
        "state",
        "federal",
        "international",
        "europe",
        "asia",
        "americas",
        "china",
        "japan",
    ]
) | {"united states", "non-u.s.", "u.s.", "united kingdom", "asia pacific", "rest of world", "all other", "net total"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and where it stands.

    attribute: how a question names it; `measure`: the key under which documents are compared.
    period:    the column as printed, or a bare year, or "". (entity, attribute, period) names one figure.
    year:      set where the figure stands for that year in every table of its document.
    value, unit: in base units; `shown`: the unit as written ("billion dollars", "in millions"), `factor`: one of it.
    currency:  "dollars", or "" where the table marks none; figures of two currencies are never compared.
    scale:     where the table's scale is said, if it was applied; cross-document families need `scaled`.
    spans:     evidence in document order; labels: texts that must stand in it.
    row, column, table: place in its table (-1: not in a table).
    """

    document_id: str
    entity: str
    attribute: str
    measure: str
    period: str
    year: int | None
    text: str
    start: int
    end: int
    value: Decimal
    unit: str
    shown: str
    factor: Decimal
    scale: str
    scaled: bool
    currency: str
    labels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    header: tuple[int, int] | None
    column_labels: tuple[str, ...]
    caption: str
    table: int = -1
    row: int = -1
    column: int = -1

    @property
    def is_cell(self) -> bool:
        return self.table >= 0

    @property
    def fact_attribute(self) -> str:
        """The attribute in the corpus table: the common key where documents are compared, else as printed."""
        return self.measure if self.year is not None or not self.is_cell else self.attribute

    @property
    def column_name(self) -> str:
        """A cell's column as printed."""
        return clean(" ".join(self.column_labels))

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it within the corpus."""
        return self.entity, self.fact_attribute.casefold(), self.period.casefold()


def heading_figure(fact: Fact) -> Figure | None:
    """The figure of a value under a heading; None if it is no number or its unit is unclear."""
    if fact.quantity is None or not is_clear_unit(fact.quantity.unit):
        return None
    factor, unit = base_unit(fact.quantity.unit)
    return Figure(
        document_id=fact.document_id,
        entity=fact.entity,
        attribute=fact.attribute,
        measure=fact.attribute.casefold(),
        period=fact.period,
        year=int(fact.period) if _YEAR.fullmatch(fact.period) else None,
        text=fact.text,
        start=fact.start,
        end=fact.end,
        value=fact.quantity.value * factor,
        unit=unit,
        shown=fact.quantity.unit,
        factor=factor,
        scale="",
        scaled=True,
        currency="",
        labels=fact.labels,
        spans=tuple((item.start, item.end) for item in fact.evidence),
        header=None,
        column_labels=(),
        caption=fact.group,
    )


def table_figures(document: Document, entity: str, table: Table) -> Iterator[Figure]:
    """The numeric cells of a table whose row and column are named and told apart from all others."""
    names = [clean(" ".join(parts)) for parts in table.columns]
    columns = Counter(name.casefold() for name in names)
    labels = Counter(row.label.casefold() for row in table.rows)
    for number, row in enumerate(table.rows):
        if row.end - row.start > MAX_ROW_CHARACTERS or not _is_label(row.label):
            continue
        section = row.section if labels[row.label.casefold()] > 1 else None
        if labels[row.label.casefold()] > 1 and section is None:
            continue  # two rows of that name and nothing that tells them apart
        for index in range(1, len(names)):
            quantity = row.cells[index].quantity
            if columns[names[index].casefold()] != 1 or not _is_column(names[index]) or quantity is None:
                continue
            if is_clear_unit(quantity.unit):
                yield _cell_figure(document, entity, table, number, row, section, index, quantity)


def rows_not_told_apart(table: Table) -> set[str]:
    """Measures that several rows of the table have, no section above one of them, with different numbers."""
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        rows[measure_of(clean(row.label))].append(row)
    return {
        measure
        for measure, group in rows.items()
        if any(row.section is None for row in group)
        and len({tuple(cell.quantity.value if cell.quantity else None for cell in row.cells[1:]) for row in group}) > 1
    }


def _cell_figure(
    document: Document,
    entity: str,
    table: Table,
    number: int,
    row: Row,
    section: Cell | None,
    column: int,
    quantity: Quantity,
) -> Figure:
    """`section` is given where it is needed to tell the row from others of its name."""
    cell, name, label = row.cells[column], clean(" ".join(table.columns[column])), clean(row.label)
    attribute = f"{clean(section.text).rstrip(':')}: {label}" if section is not None else label
    money, unit = base_unit("" if quantity.unit in MONEY else quantity.unit)
    above = row.section.text if row.section is not None else ""
    scale = _scale_of(table, column, f"{above} {label} {name}", unit)
    factor = scale.factor if scale else money
    spans = [table.header, (row.start, row.end)]
    if section is not None:
        spans.append((section.start, section.end))
    if scale is not None and not table.header[0] <= scale.start < table.header[1]:
        spans.append((scale.start, scale.end))
    dated = _YEAR.search(above) is not None or _PART_OF_YEAR.search(above) is not None
    return Figure(
        document_id=document.id,
        entity=entity,
        attribute=attribute,
        measure=measure_of(label),
        period=name,
        year=None if dated or _INTERIM.search(entity) else year_of(table, column),
        text=cell.text,
        start=cell.start,
        end=cell.end,
        value=quantity.value * factor,
        unit=unit,
        shown=scale.phrase if scale else quantity.unit,
        factor=factor,
        scale=document.text[scale.start : scale.end] if scale else "",
        scaled=scale is not None or unit != "" or bool(_PER.search(label)),
        currency=_currency_of(table, cell.text, f"{' '.join(table.columns[column])} {label}"),
        labels=(row.label, *((section.text,) if section is not None else ()), *table.columns[column]),
        spans=tuple(sorted(spans)),
        header=table.header,
        column_labels=table.columns[column],
        caption=table.caption,
        table=table.header[0],
        row=number,
        column=column,
    )


def _currency_of(table: Table, cell: str, names: str) -> str:
    """The table's currency; where it has several, the cell's own, or the one that its column or row names."""
    if len(table.currencies) <= 1:
        return "".join(table.currencies)
    own = currencies_in(cell) or currencies_in(names) or list(table.currencies)
    return " or ".join(own)


def _scale_of(table: Table, column: int, named: str, unit: str) -> Scale | None:
    """The scale that holds for a cell; None for shares, rates and percentages, which it usually does not concern."""
    return None if unit or _OUTSIDE_SCALE.search(named) else table.scales[column]


def year_of(table: Table, column: int) -> int | None:
    """The year that a column stands for as a whole or at its end; None for quarters, changes, and what is unclear."""
    text = " ".join((*table.columns[column], *table.columns[0]))
    years = {int(year) for part in table.columns[column] for year in _YEAR.findall(part)}
    if len(years) != 1 or _PART_OF_YEAR.search(text) or _PART_OF_YEAR.search(table.caption):
        return None
    words = re.findall(r"[^\W\d_]+|\$|%", " ".join(table.columns[column]))
    return years.pop() if all(word.casefold() in _ANNUAL_WORDS for word in words) else None


def measure_of(label: str) -> str:
    """One key for the ways in which companies print a row's name: case, footnote marks, dashes, colons."""
    text = _FOOTNOTE.sub("", label.strip()).rstrip(":").replace("—", "-").replace("–", "-").replace("’", "'")
    return " ".join(text.replace(" - ", "-").casefold().split())


def says_something(label: str) -> bool:
    """False for rows named "Total" or "Other" alone, which mean nothing outside of their table."""
    measure = measure_of(label).removeprefix("total ")
    return measure not in _SAYS_NOTHING and _YEAR.search(label) is None and len(measure) > 3


def clean(text: str) -> str:
    """One line, with the blank that is often lost in "September 28,2024"."""
    return " ".join(text.replace("\\|", "|").replace(",2", ", 2").replace(",1", ", 1").split())


def _is_label(text: str) -> bool:
    letters = sum(map(str.isalpha, text))
    return (
        len(text) <= MAX_LABEL_CHARACTERS
        and "`" not in text
        and (letters >= MIN_LETTERS or _YEAR.fullmatch(text.strip()) is not None)
    )


def _is_column(text: str) -> bool:
    """A column's name; a number there means that the table has no header ("$1,000")."""
    from_number = re.fullmatch(r"[$€£(]?[0-9][0-9.,]*[)%]?", text)
    return (
        0 < len(text) <= MAX_COLUMN_CHARACTERS
        and any(map(str.isalnum, text))
        and text.casefold() not in ("page", "pages", "age")
        and (from_number is None or _YEAR.fullmatch(text) is not None)
    )
