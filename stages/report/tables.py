"""Plain tables between the numbers and their two renderings, and summaries turned into such tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_ROWS = 40
MAX_COLUMNS = 6
_NOT_FROM_FILES = ("paper: ", "variant", "here")  # headers of columns that are no numbers of ours


@dataclass(frozen=True)
class Table:
    """Cells are plain text, not yet escaped; the first column names the row.

    row_links, column_links, link: files that the numbers of a row, of a column or of the whole table came from, relative
    to the report. One of the three is given.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    row_links: tuple[str, ...] = ()
    column_links: tuple[str, ...] = ()
    link: str = ""

    def link_of(self, row: int, column: int) -> str:
        """The file that a cell's number came from, relative to the report; "" for names and for what is not ours."""
        if column == 0 or self.header[column].startswith(_NOT_FROM_FILES):
            return ""
        if self.row_links:
            return self.row_links[row]
        return self.column_links[column] if self.column_links else self.link

    @property
    def links(self) -> tuple[str, ...]:
        """Every file that the table was made from."""
        return tuple(dict.fromkeys(link for link in (*self.row_links, *self.column_links, self.link) if link))


def words(key: str) -> str:
    """`multi_hop` -> `multi hop`"""
    return key.replace("_", " ")


def number(value: Any) -> str:
    """A figure as people read it: 12,345; 0.0312; 1.2e-05; a dash for nothing.

    >>> number(12345), number(0.25), number(None), number(True)
    ('12,345', '0.25', '–', 'yes')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        value = value or 0.0  # no "-0"
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 and abs(value) >= 100 else f"{value:.4g}"
    return str(value)


def percent(value: float) -> str:
    """0.754 -> `75.4`"""
    return f"{100 * value:.1f}"


def tables_of_summary(stage: str, summary: Mapping[str, Any], link: str = "") -> list[Table]:
    """A stage's summary.json as tables: `counts`, then whatever else it holds that is a table.

    Scalars at the top level join the counts; a mapping of numbers is two columns; a mapping of mappings is a matrix, its
    longer side down the page; a list of mappings has a row for each.
    """
    counts = dict(summary.get("counts") or {})
    counts.update({key: value for key, value in summary.items() if _is_scalar(value)})
    tables = [_two_columns(stage, "counts", counts, ("what", "count"))] if counts else []
    for key, value in summary.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            tables.append(_records(stage, key, value))
        if key == "counts" or not isinstance(value, Mapping) or not value:
            continue
        if all(_is_scalar(item) for item in value.values()):
            header = ("reason", "count") if key == "dropped" else (words(key), "count")
            tables.append(_two_columns(stage, key, value, header))
        elif all(isinstance(item, Mapping) for item in value.values()):
            tables.append(_matrix(stage, key, value))
    return [replace(table, link=link) for table in tables]


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, str))


def _two_columns(stage: str, key: str, values: Mapping[str, Any], header: tuple[str, str]) -> Table:
    rows = tuple((words(str(name)), number(value)) for name, value in values.items())
    return _bounded(f"{stage}: {words(key)}", header, rows)


def _matrix(stage: str, key: str, values: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(str(name) for row in values.values() for name in row))
    cells = {(str(name), column): row.get(column) for name, row in values.items() for column in columns}
    names = [str(name) for name in values]
    if len(columns) > max(MAX_COLUMNS, len(names)):
        cells = {(column, name): cell for (name, column), cell in cells.items()}
        names, columns = columns, names
    rows = tuple((words(name), *(_cell(cells[name, column]) for column in columns)) for name in names)
    return _bounded(f"{stage}: {words(key)}", ("", *(words(column) for column in columns)), rows)


def _records(stage: str, key: str, values: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(str(name) for row in values for name in row))
    rows = tuple(tuple(words(_cell(row.get(column))) for column in columns) for row in values)
    return _bounded(f"{stage}: {words(key)}", tuple(words(column) for column in columns), rows)


def _cell(value: Any) -> str:
    return number(value) if _is_scalar(value) else ", ".join(number(v) for v in _flat(value))


def _flat(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [item if _is_scalar(item) else "…" for item in items]


def _bounded(title: str, header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    note = f"{len(rows) - MAX_ROWS} more rows are in the file." if len(rows) > MAX_ROWS else ""
    return Table(title, header, rows[:MAX_ROWS], note)
