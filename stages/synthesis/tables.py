"""Pipe tables of a document: header, rows and cells with exact spans, caption, scale and currency.

Documents come from anywhere: rows with another number of cells than the header are dropped (a merged cell shifts all
others), rows below a second header are dropped (its columns mean something else), long tables are cut, and everything is
a single pass over the lines. Where the reader already knows a table's caption and units (`Document.tables`), they are
used; the rows are always read from the text, so that every cell has its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from stages.common.records import Document, Dropped
from stages.common.records import Table as RecordedTable
from stages.synthesis.currencies import currencies_in
from stages.synthesis.markdown import Line, heading_of, iter_lines
from stages.synthesis.quantities import Quantity, parse_cell
from stages.synthesis.units import Scale, find_scale

MAX_ROWS = 1000
MAX_COLUMNS = 40
MAX_LINE_CHARACTERS = 4000
MAX_CAPTION_CHARACTERS = 240
MAX_HEADER_ROWS = 3

_PERCENT = re.compile(r"\bin percent\b", re.IGNORECASE)
_MAX_UNITS_DISTANCE = 600  # how far above a table the line may stand that says its units
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
    """A table. `columns[i]` are the header cells that name column i; `header` is where they stand, as (start, end).

    scale:      the first that caption or header state ("in millions"), or "".
    scales:     that of each column, with its place; None where nothing is said.
    currencies: those that its cells, its header or its caption mark ("dollars", "euros").
    caption_at: where the caption stands, as (start, end).
    """

    document_id: str
    caption: str
    scale: str
    columns: tuple[tuple[str, ...], ...]
    header: tuple[int, int]
    rows: tuple[Row, ...]
    scales: tuple[Scale | None, ...]
    currencies: tuple[str, ...]
    caption_at: tuple[int, int]


@dataclass
class _Block:
    """Lines of one table as they are collected. `above`: the last two lines of text before it, the nearer one last."""

    above: tuple[Line, ...]
    lines: list[Line] = field(default_factory=list)
    skipped: int = 0
    caption: str = ""
    caption_at: tuple[int, int] = (0, 0)
    scale: Scale | None = None


def read_tables(document: Document, dropped: list[Dropped]) -> Iterator[Table]:
    """The tables of a document. Ragged rows and cut tables are noted in `dropped`, once per table and reason."""
    known = {table.start: table for table in document.tables}
    for block in _blocks(document.text):
        if len(block.lines) < 3 or not _is_separator(block.lines[1].text):
            continue
        _name(document, block, known.get(block.lines[0].start))
        table, refused = _table(document.id, block)
        if block.skipped:
            refused["long_table"] = block.skipped
        dropped += [_drop(document, reason, _WHY[reason].format(rows), block) for reason, rows in refused.items()]
        if table is not None:
            yield table


_WHY = {
    "long_table": f"{{}} rows beyond {MAX_ROWS} were not read",
    "ragged_row": "{} rows have another width than the header",
    "second_header": "{} rows stand below a second header",
}


def _name(document: Document, block: _Block, known: RecordedTable | None) -> None:
    """Caption and scale: what the reader recorded, else the lines above; the scale's words must stand in the text."""
    lines = list(block.above)
    for line in reversed(lines):
        block.scale = block.scale or find_scale(line.text.strip(), line.start + _indent(line.text))
    while len(lines) > 1 and _is_remark(lines[-1].text):
        lines.pop()
    if lines:
        line = lines[-1]
        heading = heading_of(line)
        block.caption = heading.title if heading else " ".join(line.text.split())[:MAX_CAPTION_CHARACTERS]
        block.caption_at = (line.start, line.end)
    if known is None:
        return
    start = block.lines[0].start
    for text in (known.units, known.caption):
        place = document.text.rfind(text, max(0, start - _MAX_UNITS_DISTANCE), start) if text else -1
        if place >= 0 and block.scale is None:
            block.scale = find_scale(text, place)
    if known.caption:
        place = document.text.rfind(known.caption, max(0, start - _MAX_UNITS_DISTANCE), start)
        if place >= 0:
            block.caption = " ".join(known.caption.split())[:MAX_CAPTION_CHARACTERS]
            block.caption_at = (place, place + len(known.caption))


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _is_remark(text: str) -> bool:
    """A line such as "(In millions, except per share data)", which says nothing of what the table is about."""
    stripped = text.strip()
    return stripped.startswith("(") or (len(stripped) < 80 and find_scale(stripped) is not None)


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
    above: tuple[Line, ...] = ()
    fenced = False
    for line in iter_lines(text):
        if line.text.startswith("```"):
            fenced = not fenced
        stripped = line.text.strip() if len(line.text) <= MAX_LINE_CHARACTERS else ""
        if not fenced and stripped.startswith("|") and stripped.count("|") >= 3:
            if block is None:
                block = _Block(above)
            if len(block.lines) < MAX_ROWS + 2:
                block.lines.append(line)
            else:
                block.skipped += 1
            continue
        if block is not None:
            yield block
            block = None
        if stripped and not stripped.startswith("|"):
            above = (*above[-1:], line)
    if block is not None:
        yield block


def _is_separator(text: str) -> bool:
    return "--" in text and set(text) <= _SEPARATOR


def _table(document_id: str, block: _Block) -> tuple[Table | None, dict[str, int]]:
    header = [split_row(block.lines[0])]
    width = len(header[0])
    refused: dict[str, int] = {}
    if not 2 <= width <= MAX_COLUMNS:
        return None, refused
    body = block.lines[2:]
    parsed = [split_row(line) for line in body]
    extra = 0
    while extra < min(MAX_HEADER_ROWS - 1, len(parsed)) and _is_header(parsed[extra], width):
        header.append(parsed[extra])
        extra += 1
    header_end = body[extra - 1].end if extra else block.lines[0].end
    rows = []
    section: Cell | None = None
    for index in range(extra, len(body)):
        line, cells = body[index], parsed[index]
        if len(cells) != width:
            refused["ragged_row"] = refused.get("ragged_row", 0) + 1
            continue
        if cells[0].text and not any(cell.text for cell in cells[1:]):
            section = cells[0]
            continue
        if _names_other_columns(cells):
            refused["second_header"] = len(body) - index
            break
        rows.append(Row(cells, line.start, line.end, section))
        if cells[0].text.casefold().startswith("total"):
            section = None  # what follows a total is outside of its section
    if not rows:
        return None, refused
    return _built(document_id, block, header, header_end, rows), refused


def _built(document_id: str, block: _Block, header: list[tuple[Cell, ...]], header_end: int, rows: list[Row]) -> Table:
    width = len(header[0])
    own = [_header_scale(header, column) for column in range(width)]
    shared = own[0] or block.scale
    if shared is None and len({scale.phrase for scale in own if scale}) == 1:
        # "(in thousands)" stands in one column of a header and is meant of all
        shared = next(scale for scale in own if scale)
    scales = tuple(scale or shared for scale in own)
    said = f"{block.caption} {' '.join(cell.text for row in header for cell in row)}"
    marked = f"{said} {' '.join(cell.text for row in rows for cell in row.cells[1:])}"
    first = next((scale.phrase for scale in (shared, *scales) if scale), "")
    return Table(
        document_id=document_id,
        caption=block.caption,
        scale=first or ("in percent" if _PERCENT.search(said) else ""),
        columns=_column_names(header),
        header=(block.lines[0].start, header_end),
        rows=tuple(rows),
        scales=scales,
        currencies=tuple(sorted(currencies_in(marked))),
        caption_at=block.caption_at,
    )


def _header_scale(header: list[tuple[Cell, ...]], column: int) -> Scale | None:
    found = (find_scale(row[column].text, row[column].start) for row in header)
    return next((scale for scale in found if scale), None)


def _names_other_columns(cells: tuple[Cell, ...]) -> bool:
    """A row within the body that holds nothing but dates and words, two dates at least: another header."""
    texts = [cell.text for cell in cells[1:] if cell.text]
    dates = sum(_DATE.fullmatch(text) is not None for text in texts)
    return dates >= 2 and all(_DATE.fullmatch(text) or parse_cell(text) is None for text in texts)


def _is_header(cells: tuple[Cell, ...], width: int) -> bool:
    """A row below the rule still names columns if it has no label (but "(in millions)") and holds words or dates only."""
    if len(cells) != width or (cells[0].text and not (cells[0].text.startswith("(") or find_scale(cells[0].text))):
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
