"""HTML to Markdown: headings, lists and tables stay, scripts, styles, menus and pictures go, links become their text.

The parser (lxml's, through BeautifulSoup) repairs broken markup; nesting is measured before anything recurses.
"""

from __future__ import annotations

import re
from html import unescape

from bs4 import BeautifulSoup, Tag
from bs4.exceptions import ParserRejectedMarkup
from markdownify import MarkdownConverter

from stages.common.text import collapse_blanks
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.tables import check_cells, pipe_table

MAX_DEPTH = 120  # real pages stay below 60; markdownify recurses a few frames per level
MAX_COLUMN_SPAN = 64

_NOISE = (
    "head",
    "script",
    "style",
    "noscript",
    "template",
    "iframe",
    "object",
    "svg",
    "img",
    "button",
    "input",
    "select",
    "nav",
    "dialog",
)
_NOISE_ROLES = (
    "navigation",
    "search",
    "dialog",
    "banner",
    "contentinfo",
)  # what ARIA calls menus, heads and feet of a page


# The only attributes that shape the text. Libraries call int() on them, so they are digits or gone.
_NUMBERS = ("colspan", "rowspan", "start")
_SMALL_NUMBER = re.compile("[0-9]{1,5}")


class _Converter(MarkdownConverter):
    """markdownify with tables of our own: cells are escaped, spans are filled, and cells hold no line breaks."""

    def convert_table(self, el: Tag, text: str, **_: object) -> str:
        del text
        caption = el.find("caption")
        title = collapse_blanks(caption.get_text(" ")) + "\n\n" if isinstance(caption, Tag) else ""
        return "\n\n" + title + pipe_table(_rows(el)) + "\n\n"

    def convert_a(self, el: Tag, text: str, **_: object) -> str:
        del el
        return text


def html_to_markdown(html: str) -> tuple[str, str]:
    """(title, Markdown). The title is empty if the page names none. Raises UnusableError (bad_html, too_deep, too_large)."""
    if "<" not in html:
        return "", unescape(html)
    try:
        soup = BeautifulSoup(html, "lxml")
    except ParserRejectedMarkup as error:
        raise UnusableError(DropReason.BAD_HTML, str(error)) from None
    _check_depth(soup)
    title = collapse_blanks(soup.title.get_text()) if soup.title else ""
    for tag in (
        soup.find_all(_NOISE) + soup.find_all(attrs={"role": _NOISE_ROLES}) + soup.find_all(attrs={"hidden": True})
    ):
        tag.decompose()
    for tag in soup.find_all("footer"):
        if tag.find_parent(["article", "blockquote", "section"]) is None:  # the page's foot, not a quotation's source
            tag.decompose()
    for tag in soup.find_all(True):
        tag.attrs = {name: tag[name] for name in _NUMBERS if _SMALL_NUMBER.fullmatch(str(tag.get(name, "")))}
    if not title and (heading := soup.find("h1")):
        title = collapse_blanks(heading.get_text(" "))
    _unfold_layout_tables(soup)
    converter = _Converter(
        heading_style="ATX", bullets="-", escape_asterisks=False, escape_underscores=False, escape_misc=False
    )
    return title, str(converter.convert_soup(soup))


def _check_depth(soup: BeautifulSoup) -> None:
    stack: list[tuple[Tag, int]] = [(soup, 0)]
    while stack:
        tag, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise UnusableError(DropReason.TOO_DEEP, f"elements are nested more than {MAX_DEPTH} deep")
        stack.extend((child, depth + 1) for child in tag.children if isinstance(child, Tag))


def _unfold_layout_tables(soup: BeautifulSoup) -> None:
    """A table around other tables only places them on the page: its cells become plain blocks."""
    for table in soup.find_all("table"):
        if table.find("table") is None:
            continue
        for part in table.find_all(["thead", "tbody", "tfoot", "tr", "th", "td"]):
            if part.find_parent("table") is table:
                part.name = "div"
        table.name = "div"


def _rows(table: Tag) -> list[list[str]]:
    """Cell texts, with column and row spans filled by repeating the text; rows without any text are left out."""
    rows: list[list[str]] = []
    below: dict[int, tuple[str, int]] = {}  # column -> text and number of rows it still reaches down
    cells = 0
    for line in table.find_all("tr"):
        row: list[str] = []
        for cell in line.find_all(["th", "td"]):
            _fill(row, below)
            text = cell.get_text(" ", strip=True)
            for _ in range(_span(cell, "colspan", MAX_COLUMN_SPAN)):
                if (down := _span(cell, "rowspan", 1000)) > 1:
                    below[len(row)] = (text, down - 1)
                row.append(text)
        _fill(row, below)
        cells += len(row)
        check_cells(cells)
        if any(row):
            rows.append(row)
    return rows


def _fill(row: list[str], below: dict[int, tuple[str, int]]) -> None:
    """Append the cells of earlier rows that reach into the next columns of this one."""
    while len(row) in below:
        text, rows_left = below.pop(len(row))
        if rows_left > 1:
            below[len(row)] = (text, rows_left - 1)
        row.append(text)


def _span(cell: Tag, attribute: str, limit: int) -> int:
    return min(max(int(str(cell.get(attribute, "1"))), 1), limit)
