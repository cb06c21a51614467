"""PDF to Markdown with pdfplumber: the text of each page, tables in their places, no running heads, no broken words.

Tables with rules are found by these, others only where columns of numbers leave no doubt (pdf_columns.py).

Pages without text (scans) are left out; a file that holds nothing else is dropped, since nothing here reads pictures.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.common.text import collapse_blanks
from stages.ingest.pdf_columns import aligned_tables, may_hold_table
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.tables import check_cells, pipe_table

MAX_PAGES = 2000
MAX_PAGE_OBJECTS = 100_000  # characters, lines and curves of a page; a drawing with more is no page of text
_DIGITS = re.compile(r"\d+")
_HYPHEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_HEAD_LINES = 2  # running heads and feet stand in the first and last lines of a page
_MIN_REPEATS = 3


def read_pdf(data: bytes, max_characters: int) -> tuple[str, str]:
    """(title or "", Markdown). Raises UnusableError (bad_pdf, too_large, too_short)."""
    import pdfplumber  # loads half a second of libraries

    if b"%PDF-" not in data[:1024]:
        raise UnusableError(DropReason.BAD_PDF, "it does not begin as a PDF does")
    try:
        with pdfplumber.open(io.BytesIO(data)) as pdf:
            title = pdf.metadata.get("Title")
            pages = _pages(pdf, max_characters)
    except (UnusableError, MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001  pdfminer raises whatever a broken file makes it stumble over
        raise UnusableError(DropReason.BAD_PDF, f"{type(error).__name__}: {error}"[:300]) from None
    if not any(pages):
        raise UnusableError(DropReason.TOO_SHORT, "no page holds text; pictures of pages are not read")
    text = "\n\n".join("\n\n".join(parts) for parts in _without_running_heads(pages) if parts)
    return collapse_blanks(title) if isinstance(title, str) else "", text


def _pages(pdf: Any, max_characters: int) -> list[list[str]]:
    if len(pdf.pages) > MAX_PAGES:
        raise UnusableError(DropReason.TOO_LARGE, f"{len(pdf.pages):,} pages, more than {MAX_PAGES:,}")
    pages: list[list[str]] = []
    size = 0
    for page in pdf.pages:
        pages.append(_parts(page))
        size += sum(len(part) for part in pages[-1])
        if size > max_characters:
            raise UnusableError(DropReason.TOO_LARGE, f"its text has more than {max_characters:,} characters")
        page.close()  # forgets the page's objects
    return pages


def _parts(page: Any) -> list[str]:
    """Text between the tables of a page, and the tables, from top to bottom."""
    if sum(len(objects) for objects in page.objects.values()) > MAX_PAGE_OBJECTS:
        raise UnusableError(DropReason.TOO_LARGE, f"a page has more than {MAX_PAGE_OBJECTS:,} objects")
    tables = sorted((table for table in page.find_tables() if _is_table(table)), key=lambda table: table.bbox[1])
    left, top, right, bottom = page.bbox
    parts = []
    for table in tables:
        if table.bbox[1] > top:
            parts += _text_and_columns(page, (left, top, right, table.bbox[1]))
        parts.append(pipe_table(_filled(table.extract())))
        top = max(top, table.bbox[3])
    if top < bottom:
        parts += _text_and_columns(page, (left, top, right, bottom))
    return [part for part in parts if part]


def _text_and_columns(page: Any, box: tuple[float, float, float, float]) -> list[str]:
    """A part of a page without rules: its text, and in it the tables that only their columns show."""
    text = _text(page, box)
    if not may_hold_table(text):
        return [text]
    cropped = page.crop(box)
    tables = aligned_tables(cropped)
    if not tables:
        return [text]
    parts, top = [], box[1]
    for table in tables:
        parts += [_lines_between(cropped, top, table.top), pipe_table(table.rows)]
        top = table.bottom
    return [*parts, _lines_between(cropped, top, box[3])]


def _lines_between(page: Any, top: float, bottom: float) -> str:
    """The text of the lines whose middle lies between two heights: close lines overlap, and none may be read twice."""
    part = page.filter(lambda item: top <= (item["top"] + item["bottom"]) / 2 < bottom)
    return _clean(part.extract_text() or "")


def _is_table(table: Any) -> bool:
    """A frame around one cell or one column is no table."""
    rows = table.rows
    check_cells(len(table.cells))
    return len(rows) > 1 and max(len(row.cells) for row in rows) > 1


def _filled(rows: Sequence[Sequence[str | None]]) -> list[list[str]]:
    """Pdfplumber marks what a merged cell covers by None: the text is repeated, from the left, else from above."""
    filled: list[list[str]] = []
    for row in rows:
        cells: list[str] = []
        for column, cell in enumerate(row):
            above = filled[-1][column] if filled and column < len(filled[-1]) else ""
            cells.append(cell if cell is not None else (cells[-1] if cells else above))
        if any(cell.strip() for cell in cells):
            filled.append(cells)
    return filled


def _text(page: Any, box: tuple[float, float, float, float]) -> str:
    return _clean(page.crop(box).extract_text() or "")


def _clean(text: str) -> str:
    return _HYPHEN.sub("", text).strip()


def _without_running_heads(pages: list[list[str]]) -> list[list[str]]:
    """Lines that open or close at least half of the pages, page numbers apart, are left out."""
    heads = Counter(key for parts in pages for key in {_key(line) for line in _edge_lines(parts)})
    repeated = {key for key, count in heads.items() if count >= max(_MIN_REPEATS, len(pages) / 2)}
    return [_trimmed(parts, repeated) for parts in pages] if repeated else pages


def _key(line: str) -> str:
    return _DIGITS.sub("#", line.strip())


def _edge_lines(parts: list[str]) -> list[str]:
    if not parts:
        return []
    return parts[0].split("\n")[:_HEAD_LINES] + parts[-1].split("\n")[-_HEAD_LINES:]


def _trimmed(parts: list[str], repeated: set[str]) -> list[str]:
    if not parts:
        return []
    parts = list(parts)
    first = parts[0].split("\n")
    parts[0] = "\n".join([line for line in first[:_HEAD_LINES] if _key(line) not in repeated] + first[_HEAD_LINES:])
    last = parts[-1].split("\n")
    parts[-1] = "\n".join(last[:-_HEAD_LINES] + [line for line in last[-_HEAD_LINES:] if _key(line) not in repeated])
    return [part for part in parts if part.strip()]
