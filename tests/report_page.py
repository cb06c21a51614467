"""Reading a finished report as a reader's browser would: its tables with the link of every cell, its links."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote


class Cell(NamedTuple):
    text: str
    link: str  # "" without one


class ReportPage(HTMLParser):
    """tables: title -> rows of cells, the header first; links: every href that is no place on the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent
        self.tables: dict[str, list[list[Cell]]] = {}
        self.links: list[str] = []
        self._title, self._text, self._link = "", "", ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.tables.setdefault(self._title, []).append([])
        if tag in ("h3", "th", "td"):
            self._text, self._link = "", ""
        if tag == "a":
            self._link = dict(attrs)["href"]
            if not self._link.startswith("#"):
                self.links.append(self._link)

    def handle_data(self, data):
        self._text += data

    def handle_endtag(self, tag):
        if tag == "h3":
            self._title = self._text.strip()
        if tag in ("th", "td"):
            self.tables[self._title][-1].append(Cell(self._text.strip(), self._link))

    def broken_links(self) -> list[str]:
        """Links to files that are not there."""
        return [link for link in self.links if not self.target(link).is_file()]

    def target(self, link: str) -> Path:
        return (self.folder / unquote(link)).resolve()

    def scores_by_model(self, models) -> list[tuple[str, str, Cell]]:
        """(table, model, cell) of every mean with its interval; the model names the row or the column.

        Without the table of ablations, whose rows are named by the paper's variants.
        """
        found = []
        for title, (header, *rows) in self.tables.items():
            if title.startswith("Ablations"):
                continue
            for row in rows:
                for column, cell in enumerate(row):
                    if column and re.match(r"[\d.]+\s*\[\d+, \d+\]", cell.text):
                        names = [name for name in (row[0].text, header[column].text) if name in models]
                        assert len(names) == 1, (title, row[0].text, header[column].text)
                        found.append((title, names[0], cell))
        return found
