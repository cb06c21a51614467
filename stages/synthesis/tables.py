"""Pipe tables of a document: header, rows and cells with exact spans, caption and scale.

Documents come from anywhere: rows with another number of cells than the header are dropped (a merged cell shifts all
others), long tables are cut, and everything is a single pass over the lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from stages.common.records import Document, Dropped
from stages.synthesis.markdown import Line, heading_of, iter_lines
from stages.synthesis.quantities import Quantity, parse_cell

MAX_ROWS = 1000
MAX_COLUMNS = 40
MAX_LINE_CHARACTERS = 4000
MAX_CAPTION_CHARACTERS = 240
MAX_HEADER_ROWS = 3

_SCALE = re.compile(r"\bin (thousands|millions|billions|percent)\b", re.IGNORECASE)
_DATE = re.compile(r"(?:[A-Z][a-z]{2,8}\.? ?[0-9]{1,2}, ?)?(?:19|20)[0-9]{2}")
_SEPARATOR = frozenset("|-: \t")


@dataclass(frozen=True)
class Cell:
    """One cell: stripped text with its characters in the document."""

    text: str
    start: int
    end: int

    @property
    def quantity(self) -> Quantity | None:
        """The number in it; offsets are relative to the cell."""
        return parse_cell(self.text)


@dataclass(frozen=True)
class Row:
    """One row. `section` is the last row above that holds only a label ("Net sales:")."""

    cells: tuple[Cell, ...]
    start: int
    end: int
    section: Cell | None

    @property
    def label(self) -> str:
        return self.cells[0].text


@dataclass(frozen=True)
class Table:
    """A table. `columns[i]` are the header cells that name column i; `header` is where they stand, as (start, end)."""

    document_id: str
    caption: str
    scale: str
    columns: tuple[tuple[str, ...], ...]
    header: tuple[int, int]
    rows: tuple[Row, ...]


@dataclass
class _Block:
    """Lines of one table as they are collected."""

    caption: str
    lines: list[Line] = field(default_factory=list)
    skipped: int = 0


def read_tables(document: Document, dropped: list[Dropped]) -> Iterator[Table]:
    """The tables of a document. Ragged rows and cut tables are noted in `dropped`, once per table."""
    for block in _blocks(document.text):
        if len(block.lines) < 3 or not _is_separator(block.lines[1].text):
            continue
        table, ragged = _table(document.id, block)
        if block.skipped:
            dropped.append(
                _drop(document, "long_table", f"{block.skipped} rows beyond {MAX_ROWS} were not read", block)
            )
        if ragged:
            dropped.append(_drop(document, "ragged_row", f"{ragged} rows have another width than the header", block))
        if table is not None:
            yield table


def split_row(line: Line) -> tuple[Cell, ...]:
    r"""The cells of "| a | b \| c |" with their spans; a `\|` belongs to its cell."""
    text = line.text
    left = text.index("|") + 1
    cells = []
    start = left
    for position in range(left, len(text)):
        if text[position] == "|" and text[position - 1] != "\\":
            cells.append(_cell(line, start, position))
            start = position + 1
    if text[start:].strip():
        cells.append(_cell(line, start, len(text)))
    return tuple(cells)


def _cell(line: Line, start: int, end: int) -> Cell:
    raw = line.text[start:end]
    text = raw.strip()
    begin = line.start + start + (len(raw) - len(raw.lstrip()) if text else 0)
    return Cell(text, begin, begin + len(text))


def _blocks(text: str) -> Iterator[_Block]:
    block: _Block | None = None
    caption, fenced = "", False
    for line in iter_lines(text):
        if line.text.startswith("```"):
            fenced = not fenced
        stripped = line.text.strip() if len(line.text) <= MAX_LINE_CHARACTERS else ""
        if not fenced and stripped.startswith("|") and stripped.count("|") >= 3:
            if block is None:
                block = _Block(caption)
            if len(block.lines) < MAX_ROWS + 2:
                block.lines.append(line)
            else:
                block.skipped += 1
            continue
        if block is not None:
            yield block
            block = None
        if stripped and not stripped.startswith("|"):
            heading = heading_of(line)
            caption = heading.title if heading else " ".join(stripped.split())[:MAX_CAPTION_CHARACTERS]
    if block is not None:
        yield block


def _is_separator(text: str) -> bool:
    return "--" in text and set(text) <= _SEPARATOR


def _table(document_id: str, block: _Block) -> tuple[Table | None, int]:
    header = [split_row(block.lines[0])]
    width = len(header[0])
    if not 2 <= width <= MAX_COLUMNS:
        return None, 0
    body = block.lines[2:]
    parsed = [split_row(line) for line in body]
    extra = 0
    while extra < min(MAX_HEADER_ROWS - 1, len(parsed)) and _is_header(parsed[extra], width):
        header.append(parsed[extra])
        extra += 1
    header_end = body[extra - 1].end if extra else block.lines[0].end
    rows, ragged = [], 0
    section: Cell | None = None
    for line, cells in zip(body[extra:], parsed[extra:], strict=True):
        if len(cells) != width:
            ragged += 1
            continue
        if cells[0].text and not any(cell.text for cell in cells[1:]):
            section = cells[0]
            continue
        if cells[0].text.casefold().startswith("total"):
            rows.append(Row(cells, line.start, line.end, section))
            section = None  # what follows a total is outside of its section
            continue
        rows.append(Row(cells, line.start, line.end, section))
    if not rows:
        return None, ragged
    scale = _SCALE.search(f"{block.caption} {' '.join(cell.text for row in header for cell in row)}")
    return (
        Table(
            document_id=document_id,
            caption=block.caption,
            scale=scale[0].lower() if scale else "",
            columns=_column_names(header),
            header=(block.lines[0].start, header_end),
            rows=tuple(rows),
        ),
        ragged,
    )


def _is_header(cells: tuple[Cell, ...], width: int) -> bool:
    """A row below the rule still names columns if it has no label (but "(in millions)") and holds words or dates only."""
    if len(cells) != width or (cells[0].text and not (cells[0].text.startswith("(") or _SCALE.search(cells[0].text))):
        return False
    texts = [cell.text for cell in cells[1:] if cell.text]
    return bool(texts) and all(_DATE.fullmatch(text) or parse_cell(text) is None for text in texts)


def _column_names(header: list[tuple[Cell, ...]]) -> tuple[tuple[str, ...], ...]:
    """Each column's cells from all header rows. An empty cell of an upper row is spanned by its left neighbour."""
    names: list[list[str]] = [[] for _ in header[0]]
    for level, cells in enumerate(header):
        spanning = ""
        for column, cell in enumerate(cells):
            upper = level < len(header) - 1 and column > 0
            spanning = cell.text or (spanning if upper and column > 1 else "")
            if spanning and spanning not in names[column]:
                names[column].append(spanning)
    return tuple(tuple(parts) for parts in names)


def _drop(document: Document, reason: str, detail: str, block: _Block) -> Dropped:
    record = {"document_id": document.id, "start": block.lines[0].start, "caption": block.caption}
    return Dropped(reason=reason, stage="synthesize", detail=detail, record=record)
