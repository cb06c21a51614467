"""Turns the bytes of one unit into documents: text, Markdown, HTML, CSV, Python trees, JSON dialogues.

Every reader takes decoded text and returns `Parsed` documents, or raises UnusableError with the reason. Nothing is guessed about
encodings: UTF-8 (a byte order mark is fine) or dropped. PDF is not read yet.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from stages.common.records import Record
from stages.common.text import collapse_blanks
from stages.ingest.clean import clean
from stages.ingest.dialogues import dialogue_from_json, dialogues_from_lines
from stages.ingest.discover import Unit, suffix_of
from stages.ingest.html_reader import html_to_markdown
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.tables import pipe_table

MAX_TITLE_CHARACTERS = 200
_HEADING = re.compile(r"^# ", re.MULTILINE)
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


class Parsed(Record):
    """One cleaned document, before it has an id.

    part: number of the line it came from (JSONL), else None.
    """

    part: int | None = None
    title: str
    text: str
    format: str


class Problem(Record):
    """A file or line that could not be used."""

    path: str
    reason: DropReason
    detail: str


class ParsedUnit(Record):
    """All that came out of one unit."""

    documents: list[Parsed]
    problems: list[Problem]


def load(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file. Raises UnusableError (too_large, unreadable)."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UnusableError(DropReason.UNREADABLE, error.strerror or "cannot be read") from None
    if len(data) > max_bytes:
        raise UnusableError(
            DropReason.TOO_LARGE, f"more than {max_bytes / 1e6:g} MB (ingest.max_file_mb); split it or raise the limit"
        )
    return data


def decode(data: bytes) -> str:
    """UTF-8 text. Raises UnusableError (binary, not_utf8)."""
    if b"\0" in data:
        raise UnusableError(DropReason.BINARY, f"holds a NUL byte at {data.index(0)}; it is no text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableError(
            DropReason.NOT_UTF8, f"byte {error.start} is no UTF-8; convert the file, for example with iconv"
        ) from None


def _read_text(text: str, source: str) -> list[Parsed]:
    return [_parsed(_name_of(source), text, "text")]


def _read_markdown(text: str, source: str) -> list[Parsed]:
    return [_parsed(_only_heading(text) or _name_of(source), text, "markdown")]


def _only_heading(markdown: str) -> str:
    """The level-1 heading that opens the text; empty if there are several, since then none names the whole."""
    outside_code = _FENCED.sub("", markdown)
    opening = outside_code.lstrip().partition("\n")[0]
    several = len(_HEADING.findall(outside_code)) > 1
    return opening[2:].strip("# \t\r") if opening.startswith("# ") and not several else ""


def _read_html(text: str, source: str) -> list[Parsed]:
    title, markdown = html_to_markdown(text)
    return [_parsed(title or _name_of(source), markdown, "html")]


def _read_csv(text: str, source: str) -> list[Parsed]:
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first_line.count)  # the first of equals: a comma
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise UnusableError(DropReason.BAD_CSV, str(error)) from None
    name = _name_of(source)
    return [_parsed(name, f"# {name}\n\n{pipe_table(rows)}", "csv")]


def _read_script(text: str, source: str) -> list[Parsed]:
    name = PurePosixPath(source).name
    return [_parsed(name, f"# file: {name}\n{text}", "python")]


def _read_json(text: str, source: str) -> list[Parsed]:
    title, dialogue = dialogue_from_json(text)
    title = title or _name_of(source)
    return [_parsed(title, f"# {title}\n\n{dialogue}", "dialogue")]


READERS: dict[str, Callable[[str, str], list[Parsed]]] = {
    "": _read_text,
    ".txt": _read_text,
    ".text": _read_text,
    ".rst": _read_text,
    ".tex": _read_text,
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".py": _read_script,
    ".json": _read_json,
}


def check_format(unit: Unit) -> None:
    """Raises UnusableError (unsupported_format), before anything is read."""
    suffix = suffix_of(unit.source)
    if not unit.is_tree and not unit.by_line and suffix not in READERS:
        raise UnusableError(DropReason.UNSUPPORTED_FORMAT, f"no reader for {suffix!r} files")


def parse(unit: Unit, contents: dict[str, bytes]) -> ParsedUnit:
    """Documents and problems of one unit. `contents`: bytes of its members that could be loaded, by path."""
    if unit.is_tree:
        return _parse_tree(unit, contents)
    source = unit.source
    try:
        text = decode(contents[source])
        if unit.by_line:
            return _parse_lines(text, source)
        return ParsedUnit(documents=READERS[suffix_of(source)](text, source), problems=[])
    except UnusableError as error:
        return ParsedUnit(documents=[], problems=[Problem(path=source, reason=error.reason, detail=error.detail)])


def _parse_tree(unit: Unit, contents: dict[str, bytes]) -> ParsedUnit:
    """A package as one text: each file under a line `# file: <path inside the package>`."""
    parts, problems = [], []
    for path, data in contents.items():
        try:
            text = clean(decode(data))
        except UnusableError as error:
            problems.append(Problem(path=path, reason=error.reason, detail=error.detail))
            continue
        parts.append(f"# file: {path.removeprefix(unit.source + '/')}\n{text}\n")
    documents = [_parsed(PurePosixPath(unit.source).name, "\n".join(parts), "python")] if parts else []
    return ParsedUnit(documents=documents, problems=problems)


def _parse_lines(text: str, source: str) -> ParsedUnit:
    documents, problems = [], []
    name = _name_of(source)
    for number, title, dialogue in dialogues_from_lines(text):
        try:
            if isinstance(dialogue, UnusableError):
                raise dialogue
            heading = title or f"{name} {number}"
            parsed = _parsed(heading, f"# {heading}\n\n{dialogue}", "dialogue")
            documents.append(parsed.model_copy(update={"part": number}))
        except UnusableError as error:
            problems.append(Problem(path=f"{source}:{number}", reason=error.reason, detail=error.detail))
    return ParsedUnit(documents=documents, problems=problems)


def _parsed(title: str, text: str, format_name: str) -> Parsed:
    return Parsed(title=collapse_blanks(clean(title))[:MAX_TITLE_CHARACTERS], text=clean(text), format=format_name)


def _name_of(source: str) -> str:
    """`a/annual_report.txt` -> `annual report`"""
    return PurePosixPath(source).stem.replace("_", " ")
