"""Where the tables of a document stand, and what is said about them. Linear in the text.

A table is a Markdown pipe table: a header line, a line of dashes, rows until the first line that does not begin with a pipe.
"""

from __future__ import annotations

import re

from stages.common.records import Table

MAX_HEADER_CELLS = 200
MAX_CAPTION_CHARACTERS = 300
_REACH_LINES = 3  # a caption stands within so many lines with text above the table, a unit also in the one below
_DASHES = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_CAPTION = re.compile(r"(?:\*\*)?(?:table|tab\.|exhibit|schedule)\s+[\dIVX]+", re.IGNORECASE)
_MONEY = r"(?:US\$|[$€£¥]|USD|EUR|GBP|JPY|CHF|(?:U\.?S\.? )?dollars?|euros?|pounds?|yen)"
_SCALE = r"(?:hundreds|thousands|millions|billions|trillions|percent|percentages?|000s?)"
_UNITS = re.compile(
    rf"\(([^()\n]{{0,120}}\b(?:in {_MONEY}|(?:{_MONEY} )?(?:in )?{_SCALE})\b[^()\n]{{0,120}})\)"
    rf"|\b((?:{_MONEY} )?in (?:{_MONEY} )?{_SCALE}(?: of {_MONEY})?)\b"
    r"|\((%|per cent|kg|km|m|cm|mm|ha|t|tons?|tonnes|years?|months?|days?|hours?|minutes?|seconds?|°C|USD|EUR)\)",
    re.IGNORECASE,
)
_CELL_END = re.compile(r"(?<!\\)\|")


def find_tables(text: str) -> list[Table]:
    """Every pipe table of a text, in reading order; tables inside fenced code are text, not tables."""
    if "|" not in text:
        return []
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    tables = []
    heading, fence = "", ""
    number = 0
    while number < len(lines):
        line = lines[number]
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):
            fence = "" if fence else mark
        if fence:
            number += 1
            continue
        if line.startswith("#"):
            heading = line.strip("# \t")
        elif line.startswith("|") and number + 1 < len(lines) and _is_dashes(lines[number + 1]):
            end = number + 2
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            above = _nearby(lines, range(number - 1, -1, -1))
            below = _nearby(lines, range(end, len(lines)))[:1]
            header = _cells(line)
            tables.append(
                Table(
                    start=starts[number],
                    end=starts[end] - 1,
                    caption=_caption(above, heading),
                    units=_units([*above, " ".join(header[:1]), " ".join(header), *below, heading]),
                    header=header,
                    rows=end - number - 2,
                )
            )
            number = end
            continue
        number += 1
    return tables


def _is_dashes(line: str) -> bool:
    return line.startswith("|") and "-" in line and len(line) < 10_000 and _DASHES.fullmatch(line) is not None


def _nearby(lines: list[str], numbers: range) -> list[str]:
    """The next lines with text, up to another table or a heading; at most one blank line between two of them."""
    found: list[str] = []
    blank = 0
    for number in numbers:
        line = lines[number]
        if line.startswith(("|", "#")) or len(found) == _REACH_LINES or blank > 2:
            break
        if line.strip():
            found.append(line.strip())
            blank = 0
        else:
            blank += 1
    return found


def _caption(above: list[str], heading: str) -> str:
    """`Table 3. ...` above it, else a line that ends with a colon or stands in brackets, else a short line, else the heading."""
    for line in above:
        if _CAPTION.match(line):
            return line.strip("*")[:MAX_CAPTION_CHARACTERS]
    for line in above[:2]:
        if line.endswith(":") and len(line) <= 2 * MAX_CAPTION_CHARACTERS:
            return line[-MAX_CAPTION_CHARACTERS:]
    titles = [line for line in above[:2] if len(line) <= 120 and not line.endswith((".", ";", ","))]
    named = [line for line in titles if not line.startswith("(") and "|" not in line]  # a page foot has pipes
    return (named or [heading])[0].strip("*")[:MAX_CAPTION_CHARACTERS]


def _units(lines: list[str]) -> str:
    for line in lines:
        if (match := _UNITS.search(line[:2000])) is not None:
            return next(group for group in match.groups() if group)
    return ""


def _cells(line: str) -> list[str]:
    cells = _CELL_END.split(line.strip()[1:])
    if cells and not cells[-1].strip():
        cells.pop()
    return [cell.strip().replace("\\|", "|")[:MAX_CAPTION_CHARACTERS] for cell in cells[:MAX_HEADER_CELLS]]
