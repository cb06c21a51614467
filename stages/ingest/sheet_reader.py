"""CSV, TSV and Excel workbooks. Values are read, formulas are not run, macros and external links are never touched.

A workbook is a zip file: what it says it unpacks to is checked before anything is unpacked, and Python's reader stops at that
size. Merged cells repeat their value; that needs the whole sheet in memory, so it is left out for very large workbooks.
"""

from __future__ import annotations

import csv
import datetime
import io
import zipfile
from collections.abc import Iterator
from typing import Any

import openpyxl

from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.tables import MAX_TABLE_CELLS, blocks, check_cells, pipe_table

_MAX_UNPACKED_FACTOR = 100  # real workbooks unpack to 5 to 20 times their size
_MAX_WHOLE_BYTES = 20_000_000  # openpyxl needs about fifty times the XML when it holds a sheet whole


def read_csv(text: str) -> str:
    """A pipe table. Raises UnusableError (bad_csv, too_large)."""
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first_line.count)  # the first of equals: a comma
    rows = []
    cells = 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if any(row):
                rows.append(row)
                cells += len(row)
                check_cells(cells)
    except csv.Error as error:
        raise UnusableError(DropReason.BAD_CSV, str(error)) from None
    return pipe_table(rows)


def read_workbook(data: bytes, max_bytes: int) -> str:
    """Each sheet with cells under its name. Raises UnusableError (bad_xlsx, too_large)."""
    whole = _unpacked_bytes(data, max_bytes) <= _MAX_WHOLE_BYTES
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=not whole, data_only=True, keep_links=False)
        sheets = [(str(sheet.title), list(_rows(sheet, whole))) for sheet in book.worksheets]
    except (UnusableError, MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001  openpyxl raises whatever broken XML makes it stumble over
        raise UnusableError(DropReason.BAD_XLSX, f"{type(error).__name__}: {error}"[:300]) from None
    parts = []
    for name, rows in sheets:
        if found := blocks(rows):
            parts += [f"## {name}", *found]
    return "\n\n".join(parts)


def _unpacked_bytes(data: bytes, max_bytes: int) -> int:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UnusableError(DropReason.BAD_XLSX, str(error)) from None
    if size > max(max_bytes, min(_MAX_UNPACKED_FACTOR * len(data), 10 * max_bytes)):
        raise UnusableError(DropReason.TOO_LARGE, f"a workbook of {len(data):,} bytes that unpacks to {size:,}")
    return size


def _rows(sheet: Any, whole: bool) -> Iterator[list[str]]:
    merged: dict[tuple[int, int], str] = {}
    if whole:
        for area in sheet.merged_cells.ranges:
            check_cells(area.size["rows"] * area.size["columns"] + len(merged))
            value = _text(sheet.cell(area.min_row, area.min_col))
            for row in range(area.min_row, area.max_row + 1):
                for column in range(area.min_col, area.max_col + 1):
                    merged[row, column] = value
    if whole:
        check_cells(sheet.max_row * sheet.max_column)
    cells = 0
    for row_number, row in enumerate(sheet.iter_rows(), start=1):
        values = [merged.get((row_number, column), "") or _text(cell) for column, cell in enumerate(row, start=1)]
        while values and not values[-1]:
            values.pop()
        cells += len(values) + 1
        if cells > MAX_TABLE_CELLS:
            check_cells(cells)
        yield values


def _text(cell: Any) -> str:
    """A cell as it is shown: whole numbers without `.0`, percentages as such, dates in ISO form."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float | int):
        if str(cell.number_format).rstrip().endswith("%"):
            return f"{round(value * 100, 10):.10g}%"
        return f"{value:.15g}" if isinstance(value, float) else str(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
