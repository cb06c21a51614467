"""A Python repository as one document: each file's text under a line `# file: <path>`, and a map of where each stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from stages.common.records import SourceFile
from stages.ingest.clean import clean
from stages.ingest.decode import decode
from stages.ingest.parsed import Note, Parsed, ParsedUnit, Problem
from stages.ingest.reasons import UnusableError

_OPENING_BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)+")


def read_repository(source: str, contents: Mapping[str, bytes]) -> ParsedUnit:
    """`contents`: bytes of the files by path relative to the corpus; `source` is the repository's folder.

    A file that cannot be decoded is a problem of its own; the others stay.
    """
    parts: list[str] = []
    length = 0
    files: list[SourceFile] = []
    problems: list[Problem] = []
    notes: list[Note] = []
    for path, data in contents.items():
        try:
            decoded, note = decode(data)
            body = _OPENING_BLANK_LINES.sub("", clean(decoded)).rstrip()
        except UnusableError as error:
            problems.append(Problem(path=path, reason=error.reason, detail=error.detail))
            continue
        if note:
            notes.append(Note(path=path, note=note))
        name = path.removeprefix(source + "/")
        head = f"\n\n# file: {name}\n" if parts else f"# file: {name}\n"
        start = length + len(head)
        length = start + len(body)
        files.append(SourceFile(path=name, start=start, end=length))
        parts += [head, body]
    if not files:
        return ParsedUnit(documents=[], problems=problems)
    document = Parsed(title=PurePosixPath(source).name, text="".join(parts), format="python", files=files)
    return ParsedUnit(documents=[document], problems=problems, notes=notes)
