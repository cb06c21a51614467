"""The files of a repository document: every one begins with a line `# file: <path>`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FILE_LINE = re.compile(r"^# file: (?P<path>[^\n]{1,200})$", re.MULTILINE)


@dataclass(frozen=True)
class CodeFile:
    """One file: where its `# file:` line stands, and where its text begins and ends, in the document."""

    path: str
    line: tuple[int, int]
    start: int
    end: int


def code_files(text: str) -> Iterator[CodeFile]:
    """The files of a repository document."""
    marks = list(FILE_LINE.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        end = following.start() if following else len(text)
        yield CodeFile(mark["path"].strip(), (mark.start(), mark.end()), min(mark.end() + 1, end), end)
