"""Tables as Markdown pipe tables, the one form that the later stages look for."""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.text import collapse_blanks


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
    lines = [_line(row, width) for row in rows]
    lines.insert(1, "|" + "---|" * width)
    return "\n".join(lines)


def _line(row: Sequence[str], width: int) -> str:
    cells = [collapse_blanks(cell).replace("|", "\\|") for cell in row]
    return "| " + " | ".join(cells + [""] * (width - len(cells))) + " |"
