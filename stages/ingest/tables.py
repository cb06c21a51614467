"""Tables as Markdown pipe tables, the one form that the later stages look for."""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.text import collapse_blanks
from stages.ingest.reasons import DropReason, UnusableError

MAX_TABLE_CELLS = 1_000_000


def check_cells(cells: int) -> None:
    """Raises UnusableError (too_large) for a table that no document holds."""
    if cells > MAX_TABLE_CELLS:
        raise UnusableError(DropReason.TOO_LARGE, f"a table has more than {MAX_TABLE_CELLS:,} cells")


def pipe_table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header; short rows are filled up with empty cells; no rows give an empty text.

    >>> print(pipe_table([["year", "sales"], ["2023", "7"]]))
    | year | sales |
    |---|---|
    | 2023 | 7 |
    """
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    check_cells(width * len(rows))  # one row of a million cells would widen all others
    lines = [_line(row, width) for row in rows]
    lines.insert(1, "|" + "---|" * width)
    return "\n".join(lines)


def blocks(rows: Sequence[Sequence[str]]) -> list[str]:
    """A sheet as Markdown: blank rows part tables, empty columns go, lines of one cell above a table are its caption.

    >>> print("//".join(blocks([["Sales", ""], ["year", "net"], ["2023", "7"], ["", ""], ["a note", ""]])))
    Sales//| year | net |
    |---|---|
    | 2023 | 7 |//a note
    """
    parts: list[str] = []
    block: list[Sequence[str]] = []
    for row in [*rows, []]:
        if any(cell.strip() for cell in row):
            block.append(row)
        elif block:
            parts += _block(block)
            block = []
    return parts


def _block(rows: list[Sequence[str]]) -> list[str]:
    width = max(len(row) for row in rows)
    check_cells(width * len(rows))
    full = [list(row) + [""] * (width - len(row)) for row in rows]
    used = [column for column in range(width) if any(row[column].strip() for row in full)]
    full = [[row[column] for column in used] for row in full]
    parts = []
    while full and sum(bool(cell.strip()) for cell in full[0]) == 1 and (len(used) > 1 or len(full) == 1):
        parts.append(collapse_blanks(" ".join(full.pop(0))))
    return [*parts, pipe_table(full)] if full else parts


def _line(row: Sequence[str], width: int) -> str:
    cells = [collapse_blanks(cell).replace("|", "\\|") for cell in row]
    return "| " + " | ".join(cells + [""] * (width - len(cells))) + " |"
