"""Under which licence a document stands, as far as the corpus says: its own head, the nearest LICENSE file, or a SOURCES.md.

SOURCES.md holds a Markdown table with the columns `folder` (or `file`, `path`) and `licence` (or `license`). The deepest folder that says
something wins; nothing is guessed, and nobody should read this as legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from stages.common.text import collapse_blanks
from stages.ingest.decode import decode
from stages.ingest.loading import load
from stages.ingest.reasons import UnusableError

_MAX_NOTICE_BYTES = 1_000_000
_MAX_CHARACTERS = 200
_HEAD_CHARACTERS = 3000
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() -]{2,80}?)[ \t]*(?:\*/|-->|$)", re.MULTILINE)
_FRONT_MATTER = re.compile(
    r"\A---\n(?:.*\n){0,50}?licen[sc]e:[ \t]*['\"]?([^'\"\n]{2,100}?)['\"]?[ \t]*\n", re.IGNORECASE
)
# The first that matches; the more special ones come first.
_TEXTS = (
    ("AGPL-3.0", r"GNU AFFERO GENERAL PUBLIC LICENSE"),
    ("LGPL-3.0", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-2.1", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1"),
    ("GPL-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
    ("GPL-2.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 2"),
    ("MPL-2.0", r"Mozilla Public License,?\s+(?:Version|v\.)\s*2\.0"),
    ("Apache-2.0", r"Apache License,?\s+Version 2\.0"),
    ("CC0-1.0", r"CC0 1\.0"),
    ("CC-BY-SA-4.0", r"Attribution-ShareAlike 4\.0"),
    ("CC-BY-NC-4.0", r"Attribution-NonCommercial 4\.0"),
    ("CC-BY-4.0", r"Attribution 4\.0"),
    (
        "BSD-3-Clause",
        r"Redistribution and use in source and binary forms[\s\S]*(?:Neither|names? of)[\s\S]*endorse or promote",
    ),
    ("BSD-2-Clause", r"Redistribution and use in source and binary forms"),
    ("MIT", r"Permission is hereby granted, free of charge, to any person"),
    ("ISC", r"Permission to use, copy, modify, and/?(?:or)? distribute this software"),
    ("Unlicense", r"This is free and unencumbered software"),
    ("PSF-2.0", r"PYTHON SOFTWARE FOUNDATION LICENSE"),
)
_KNOWN = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _TEXTS)


def licence_in_head(text: str) -> str | None:
    """What an SPDX line or the front matter of the document itself says."""
    head = text[:_HEAD_CHARACTERS]
    match = _SPDX.search(head) or _FRONT_MATTER.match(head)
    return collapse_blanks(match[1])[:_MAX_CHARACTERS] if match else None


class Licences:
    """What the corpus's notices say, by folder."""

    def __init__(self, corpus: Path, notices: Iterable[str]) -> None:
        """notices: paths of LICENSE files and SOURCES.md relative to the corpus; those that cannot be read are left out."""
        self._by_folder: dict[str, str] = {}
        named: dict[str, str] = {}
        for path in notices:
            try:
                text, _ = decode(load(corpus / path, _MAX_NOTICE_BYTES))
            except UnusableError:  # says nothing then; ingest does not depend on it
                continue
            folder = path.rpartition("/")[0]
            if PurePosixPath(path).name == "SOURCES.md":
                named |= {f"{folder}/{inner}".strip("/"): licence for inner, licence in _sources(text)}
            elif not PurePosixPath(path).name.upper().startswith("NOTICE"):
                self._by_folder.setdefault(folder, name_of(text))
        self._by_folder = named | self._by_folder

    def of(self, source: str) -> str | None:
        """The licence of a file or folder of the corpus."""
        folder = source
        while True:
            if folder in self._by_folder:
                return self._by_folder[folder] or None
            if not folder:
                return None
            folder = folder.rpartition("/")[0]


def name_of(text: str) -> str:
    """The SPDX name of a licence text; its first line if it is none of the common ones."""
    for name, pattern in _KNOWN:
        if pattern.search(text):
            return name
    first = next((line.strip() for line in text.split("\n") if line.strip()), "")
    return collapse_blanks(first)[:_MAX_CHARACTERS]


def _sources(markdown: str) -> Iterable[tuple[str, str]]:
    """(folder, licence) of each row of a SOURCES.md."""
    where = what = None
    for line in markdown.split("\n"):
        if not line.startswith("|"):
            where = what = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if where is None or what is None:
            lowered = [cell.lower() for cell in cells]
            where = next((i for i, cell in enumerate(lowered) if cell in ("folder", "file", "path")), None)
            what = next((i for i, cell in enumerate(lowered) if cell in ("licence", "license")), None)
        elif max(where, what) < len(cells) and not set(cells[where]) <= set("-: "):
            yield cells[where].strip("`/ "), collapse_blanks(cells[what])[:_MAX_CHARACTERS]
