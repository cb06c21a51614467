"""Tables of a PDF page that have no rules: rows of a label and numbers, in columns that are told apart by blanks alone.

pdfplumber's own strategy for these ("text") sees a table in any prose that is set in columns. So little is believed here: at least
three rows, in each a label and the same number (two or more) of cells that are nothing but numbers, every column aligned at one
side, no cell under two columns, and above them a line that names each column. What falls short of that stays text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MIN_ROWS = 3
MIN_NUMBER_COLUMNS = 2
MAX_LABEL_CHARACTERS = 90
_SPACED_HEIGHTS = 2.5  # rows farther apart, in heights of a line, are not of one table
_ALIGNED_HEIGHTS = 0.6  # a closing bracket or a percent sign moves a number's edge
_GAP_HEIGHTS = 1.0  # blanks between words are a third of it
_NUMBER = re.compile(r"[-−–(]? ?[$€£¥]? ?[-−–(]?(?:[0-9][0-9.,]*|[—–-]) ?[)%]{0,2}")
_LOOKED_AT_CHARACTERS = 200
_SIGNS = set("$€£¥()%")
_AROUND_NUMBERS = _SIGNS | set("-−–—")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_SIGN = re.compile(r"[$€£¥]|[-−–(]?[$€£¥][(]?")


@dataclass(frozen=True)
class Cell:
    """Words that stand close together, with their edges in points."""

    text: str
    x0: float
    x1: float


@dataclass(frozen=True)
class Line:
    """Cells on one height, from left to right."""

    cells: tuple[Cell, ...]
    top: float
    bottom: float


@dataclass(frozen=True)
class AlignedTable:
    """Header and rows as text; it takes the page from `top` to `bottom`, in points."""

    rows: tuple[tuple[str, ...], ...]
    top: float
    bottom: float


def may_hold_table(text: str) -> bool:
    """A quick look: three lines that end with two numbers. False: `aligned_tables` would find none."""
    return sum(map(_ends_with_numbers, text.split("\n"))) >= MIN_ROWS


def _ends_with_numbers(line: str) -> bool:
    found = 0
    for word in reversed(line[-_LOOKED_AT_CHARACTERS:].split()):
        if not any(map(str.isdigit, word)) and not set(word) <= _AROUND_NUMBERS:
            break
        found += bool(set(word) - _SIGNS)
    return found >= MIN_NUMBER_COLUMNS


def aligned_tables(page: Any) -> list[AlignedTable]:
    """The tables of a page (or a part of one) from top to bottom."""
    lines = lines_of(page.extract_words())
    return [table for first, last in _runs(lines) if (table := _table(lines, first, last)) is not None]


def lines_of(words: Sequence[dict[str, Any]]) -> list[Line]:
    """Pdfplumber's words (text, x0, x1, top, bottom) as lines of cells."""
    rows: list[list[dict[str, Any]]] = []
    for word in sorted(words, key=lambda word: (word["top"], word["x0"])):
        middle = (word["top"] + word["bottom"]) / 2
        if rows and rows[-1][0]["top"] <= middle <= rows[-1][0]["bottom"]:
            rows[-1].append(word)
        else:
            rows.append([word])
    return [_line(row) for row in rows]


def _line(words: list[dict[str, Any]]) -> Line:
    words.sort(key=lambda word: word["x0"])
    height = max(word["bottom"] - word["top"] for word in words)
    cells: list[Cell] = []
    for word in words:
        cell = Cell(word["text"], word["x0"], word["x1"])
        close = bool(cells) and cell.x0 - cells[-1].x1 <= _GAP_HEIGHTS * height
        # A sign stands at its column's left edge, however far the number is.
        if cells and (close or (len(cells) > 1 and _SIGN.fullmatch(cells[-1].text) and _NUMBER.fullmatch(cell.text))):
            cells[-1] = Cell(f"{cells[-1].text} {cell.text}", cells[-1].x0, cell.x1)
        else:
            cells.append(cell)
    return Line(tuple(cells), min(word["top"] for word in words), max(word["bottom"] for word in words))


def _runs(lines: Sequence[Line]) -> Iterator[tuple[int, int]]:
    """(first, last) of lines in a row with equally many numbers; lines with a label alone may stand between them."""
    first = 0
    while first < len(lines):
        if not _is_row(lines[first]):
            first += 1
            continue
        last = at = first
        while at + 1 < len(lines) and _follows(lines[at], lines[at + 1]):
            at += 1
            if _is_row(lines[at]) and len(lines[at].cells) == len(lines[first].cells):
                last = at
            elif len(lines[at].cells) != 1 or _is_row(lines[at]):
                break
        yield first, last
        first = last + 1


def _is_row(line: Line) -> bool:
    label, *numbers = line.cells
    return (
        len(numbers) >= MIN_NUMBER_COLUMNS
        and any(map(str.isalpha, label.text))
        and len(label.text) <= MAX_LABEL_CHARACTERS
        and all(_NUMBER.fullmatch(cell.text) for cell in numbers)
    )


def _follows(above: Line, below: Line) -> bool:
    return below.top - above.bottom <= _SPACED_HEIGHTS * (above.bottom - above.top)


def _table(lines: Sequence[Line], first: int, last: int) -> AlignedTable | None:
    """The run as a table, if its columns hold and the line above names them (or the first, if all its numbers are years)."""
    if all(_YEAR.fullmatch(cell.text) for cell in lines[first].cells[1:]):
        first += 1
    body = lines[first : last + 1]
    rows = [line for line in body if len(line.cells) > 1]
    if len(rows) < MIN_ROWS or first == 0 or not _follows(lines[first - 1], lines[first]):
        return None
    columns = list(zip(*(line.cells for line in rows), strict=True))
    slack = _ALIGNED_HEIGHTS * min(line.bottom - line.top for line in rows)
    labels_end = max(line.cells[0].x1 for line in body)
    edges = [(min(cell.x0 for cell in column), max(cell.x1 for cell in column)) for column in columns[1:]]
    if not all(_aligned(column, slack) for column in columns[1:]) or labels_end >= edges[0][0]:
        return None
    if any(left[1] >= right[0] for left, right in itertools.pairwise(edges)):
        return None
    header = _header(lines[first - 1], edges)
    if header is None:
        return None
    shown = [(line.cells[0].text, *(cell.text for cell in line.cells[1:])) for line in body]
    filled = [row if len(row) > 1 else (row[0], *("" for _ in edges)) for row in shown]
    return AlignedTable((header, *filled), lines[first - 1].top, body[-1].bottom)


def _aligned(column: Sequence[Cell], slack: float) -> bool:
    """True if the cells share their right edge or their left one."""
    rights, lefts = [cell.x1 for cell in column], [cell.x0 for cell in column]
    return min(max(rights) - min(rights), max(lefts) - min(lefts)) <= slack


def _header(line: Line, edges: Sequence[tuple[float, float]]) -> tuple[str, ...] | None:
    """The names of all columns: one cell over each column of numbers, and perhaps one over the labels."""
    over = [[cell for cell in line.cells if cell.x0 < right and left < cell.x1] for left, right in edges]
    if any(len(cells) != 1 for cells in over) or len({cells[0] for cells in over}) != len(edges):
        return None
    rest = [cell.text for cell in line.cells if all(cell is not cells[0] for cells in over)]
    return None if len(rest) > 1 else ("".join(rest), *(cells[0].text for cells in over))
