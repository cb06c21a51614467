"""Tables in plain text, for who cuts it: where the one that a cut would part begins and ends.

A table is a run of lines of one kind: Markdown rows ("| a | b |"), or three lines and more with the same number of tabs, of
semicolons or of commas (two and more of these); or what stands between <table> and </table>.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

_HTML_TABLE = re.compile(r"<(/?)table\b[^<>]{0,1000}>?", re.IGNORECASE)
_HTML_ROW_END = re.compile(r"</tr\s*>[ \t]*\n?", re.IGNORECASE)
_SEPARATORS = (("\t", 1), (";", 2), (",", 2))  # and how many make a row
_ROWS = 3  # of a table without bars: two lines with the same number of commas are an accident
_MAX_ROW = 8_192  # characters; what is longer is prose without line ends

_Kind = tuple[str, int]


@dataclass(frozen=True)
class CutTable:
    """The table around a place in a text, in characters.

    start: None: before where it was looked for. end: None: not in the text at hand. row: the last row's end before the
    place, None if there is none where it was looked for.
    """

    start: int | None
    end: int | None
    row: int | None


def between_rows(text: str, cut: int) -> bool:
    """Whether the lines before and after a line's end are rows of the same kind."""
    before = _kind(text, text.rfind("\n", 0, cut - 1) + 1)
    return before is not None and before == _kind(text, cut)


def table_around(text: str, cut: int, floor: int) -> CutTable | None:
    """The table that a cut at `cut` would part, None if it parts none; it is looked for from `floor` on."""
    return _html_table(text, cut, floor) or _line_table(text, cut, floor)


def _html_table(text: str, cut: int, floor: int) -> CutTable | None:
    last = next(iter(deque(_HTML_TABLE.finditer(text, floor, cut), maxlen=1)), None)
    closing = _HTML_TABLE.search(text, cut)
    if last is None and (closing is None or not closing[1]):
        return None  # neither opened in sight nor closed further on
    if last is not None and last[1]:
        return None
    rows = [match.end() for match in _HTML_ROW_END.finditer(text, floor, cut)]
    end = None
    if closing is not None and closing[1]:
        end = closing.end() + (text[closing.end() : closing.end() + 1] == "\n")
    start = last.start() if last is not None else None
    return CutTable(start, end, rows[-1] if rows and rows[-1] > (start or 0) else None)


def _line_table(text: str, cut: int, floor: int) -> CutTable | None:
    line = text.rfind("\n", 0, cut) + 1  # where the line that is cut, or the one after the cut, begins
    kind = _kind(text, line)
    if kind is None:
        return None
    rows, start = 0, line
    while start > floor:
        before = text.rfind("\n", 0, start - 1) + 1
        if _kind(text, before) != kind:
            break
        start, rows = before, rows + 1
    if rows == 0 and line == cut:
        return None  # it begins here
    end: int | None = line
    while end is not None and end < len(text) and _kind(text, end) == kind:
        found = text.find("\n", end) + 1
        end, rows = found or None, rows + 1
    if rows < _ROWS and kind[0] != "|":
        return None
    if end is not None and end >= len(text):
        end = None  # more rows may follow
    return CutTable(start if start > floor else None, end, line if line > floor else None)


def _kind(text: str, line: int) -> _Kind | None:
    """What makes the line that begins there a row of a table; None: it is none."""
    end = text.find("\n", line, line + _MAX_ROW)
    end = min(len(text), line + _MAX_ROW) if end < 0 else end
    row = text[line:end].strip(" ")
    if row.startswith("|"):
        return ("|", 0)
    for separator, least in _SEPARATORS:
        if (number := row.count(separator)) >= least:
            return (separator, number)
    return None
