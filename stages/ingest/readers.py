"""Turns the bytes of one unit into documents, by the suffix of its name.

    .txt .rst .log and no suffix    text            .csv .tsv       one pipe table
    .md                             Markdown        .xlsx .xlsm     a table per block of cells, under its sheet's name
    .html .xhtml                    HTML            .parquet        a table; or a document a row, if it has a text column
    .tex                            LaTeX           .json .jsonl    dialogues; a line {"text": ...} is a text
    .pdf                            PDF             .py             a script; many of them: a repository (repository.py)

Any of them may be gzipped. Tables become pipe tables, so that a table is a span of the text. A reader raises UnusableError with the
reason; what it had to assume is a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from stages.common.text import collapse_blanks
from stages.ingest.decode import decode
from stages.ingest.dialogues import MESSAGE_KEYS, SESSION_KEYS, Dialogue, dialogue_of, dialogues_of, parse_json
from stages.ingest.discover import Unit, suffix_of, without_suffix
from stages.ingest.html_reader import html_to_markdown
from stages.ingest.latex_reader import read_latex
from stages.ingest.parquet_reader import cell_text, read_rows
from stages.ingest.parsed import Note, Parsed, ParsedUnit, Problem, parsed
from stages.ingest.pdf_reader import read_pdf
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.repository import read_repository
from stages.ingest.sheet_reader import read_csv, read_workbook
from stages.ingest.tables import pipe_table

_HEADING = re.compile(r"^# ", re.MULTILINE)
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---\n(?:[\w-]+:.*\n|[ \t-].*\n|\n){1,200}---\n")
_EMBEDDED_DATA = re.compile(r"data:[\w/+.;=-]{1,100};base64,[A-Za-z0-9+/=\s]{200,}")
_GUTENBERG_START = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*\n", re.MULTILINE)
_GUTENBERG_END = re.compile(r"^\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK", re.MULTILINE)


def _read_text(text: str, source: str) -> list[Parsed]:
    return [parsed(_name_of(source), _without_licence_of_gutenberg(text), "text")]


def _read_markdown(text: str, source: str) -> list[Parsed]:
    body = _EMBEDDED_DATA.sub("", _without_licence_of_gutenberg(text))
    title = _only_heading(_FRONT_MATTER.sub("", body, count=1))
    return [parsed(title or _name_of(source), body, "markdown")]


def _without_licence_of_gutenberg(text: str) -> str:
    """Project Gutenberg puts 3,000 words of licence around every book."""
    start, end = _GUTENBERG_START.search(text), _GUTENBERG_END.search(text)
    return text[start.end() if start else 0 : end.start() if end else len(text)]


def _only_heading(markdown: str) -> str:
    """The level-1 heading that opens the text; empty if there are several, since then none names the whole."""
    outside_code = _FENCED.sub("", markdown)
    opening = outside_code.lstrip().partition("\n")[0]
    several = len(_HEADING.findall(outside_code)) > 1
    return opening[2:].strip("# \t\r") if opening.startswith("# ") and not several else ""


def _read_html(text: str, source: str) -> list[Parsed]:
    title, markdown = html_to_markdown(text)
    return [parsed(title or _name_of(source), markdown, "html")]


def _read_latex(text: str, source: str) -> list[Parsed]:
    title, markdown = read_latex(text)
    return [parsed(title or _name_of(source), markdown, "latex")]


def _read_csv(text: str, source: str) -> list[Parsed]:
    name = _name_of(source)
    return [parsed(name, f"# {name}\n\n{read_csv(text)}", "csv")]


def _read_script(text: str, source: str) -> list[Parsed]:
    name = PurePosixPath(source).name
    return [parsed(name, f"# file: {name}\n{text}", "python")]


_TEXT_READERS: dict[str, Callable[[str, str], list[Parsed]]] = {
    "": _read_text,
    ".txt": _read_text,
    ".text": _read_text,
    ".rst": _read_text,
    ".log": _read_text,
    ".tex": _read_latex,
    ".ltx": _read_latex,
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".py": _read_script,
    ".pyi": _read_script,
}
_DIALOGUE_SUFFIXES = (".json", ".jsonl", ".ndjson")
_BOOK_SUFFIXES = (".xlsx", ".xlsm")
# Parsers of binary files, and of markup that can be made to explode: a worker reads these one at a time.
RISKY_SUFFIXES = (".pdf", ".parquet", ".html", ".htm", ".xhtml", ".tex", ".ltx", *_BOOK_SUFFIXES)


def check_format(unit: Unit) -> None:
    """Raises UnusableError (unsupported_format), before anything is read."""
    suffix = suffix_of(unit.source)
    known = suffix in (*_TEXT_READERS, *_DIALOGUE_SUFFIXES, *_BOOK_SUFFIXES, ".pdf", ".parquet")
    if not unit.is_tree and not known:
        raise UnusableError(DropReason.UNSUPPORTED_FORMAT, f"no reader for {suffix!r} files")


def parse(unit: Unit, contents: dict[str, bytes], max_bytes: int) -> ParsedUnit:
    """Documents, problems and notes of one unit.

    contents: bytes of its members that could be loaded, by path. max_bytes: what a packed format may unpack to.
    """
    if unit.is_tree:
        return read_repository(unit.source, contents)
    source = unit.source
    try:
        return _parse_file(contents[source], source, max_bytes)
    except UnusableError as error:
        return ParsedUnit(documents=[], problems=[Problem(path=source, reason=error.reason, detail=error.detail)])


def _parse_file(data: bytes, source: str, max_bytes: int) -> ParsedUnit:
    suffix = suffix_of(source)
    name = _name_of(source)
    if suffix == ".pdf":
        title, text = read_pdf(data, max_bytes)
        return ParsedUnit(documents=[parsed(title or name, text, "pdf")])
    if suffix in _BOOK_SUFFIXES:
        return ParsedUnit(documents=[parsed(name, f"# {name}\n\n{read_workbook(data, max_bytes)}", "xlsx")])
    if suffix == ".parquet":
        return _parse_parquet(data, source, max_bytes)
    text, note = decode(data)
    notes = [Note(path=source, note=note)] if note else []
    if suffix == ".json":
        read = _collect(((number, value) for number, value in _numbered(dialogues_of(parse_json(text)))), source)
    elif suffix in _DIALOGUE_SUFFIXES:
        read = _collect(_from_lines(text), source)
    else:
        read = ParsedUnit(documents=_TEXT_READERS[suffix](text, source))
    return read.model_copy(update={"notes": notes})


_Found = Dialogue | str | UnusableError  # a text stands for itself


def _numbered(found: list[Dialogue | UnusableError]) -> Iterator[tuple[int | None, _Found]]:
    """A file's only dialogue has no number."""
    yield from ((None, item) for item in found) if len(found) == 1 else enumerate(found, start=1)


def _from_lines(text: str) -> Iterator[tuple[int | None, _Found]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _from_row(parse_json(line))
            except UnusableError as error:
                yield number, error


def _from_row(value: Any) -> Dialogue | str:
    """A dialogue, or the text of {"text": ...}. Raises UnusableError (not_a_dialogue)."""
    if isinstance(value, dict) and not any(value.get(key) for key in MESSAGE_KEYS + SESSION_KEYS):
        body = next((value[key] for key in ("text", "content") if isinstance(value.get(key), str)), None)
        if body is not None and not any(isinstance(value.get(key), str) for key in ("role", "speaker", "from")):
            title = value.get("title")
            return f"# {collapse_blanks(title)}\n\n{body}" if isinstance(title, str) and title.strip() else body
    return dialogue_of(value)


def _collect(found: Iterable[tuple[int | None, _Found]], source: str) -> ParsedUnit:
    """One document per dialogue or text; the damaged ones are problems of their own."""
    documents, problems = [], []
    for number, item in found:
        try:
            if isinstance(item, UnusableError):
                raise item
            documents.append(_one_of_many(item, source, number))
        except UnusableError as error:
            path = source if number is None else f"{source}:{number}"
            problems.append(Problem(path=path, reason=error.reason, detail=error.detail))
    return ParsedUnit(documents=documents, problems=problems)


def _one_of_many(item: Dialogue | str, source: str, number: int | None) -> Parsed:
    name = _name_of(source) if number is None else f"{_name_of(source)} {number}"
    if isinstance(item, str):
        return parsed(_only_heading(item) or name, _without_licence_of_gutenberg(item), "text", number)
    title = item.title or name
    return parsed(title, f"# {title}\n\n{item.text}", "dialogue", number)


def _parse_parquet(data: bytes, source: str, max_bytes: int) -> ParsedUnit:
    names, rows = read_rows(data, max_bytes)
    if any(key in names for key in MESSAGE_KEYS + SESSION_KEYS) or "text" in names:
        return _collect(_from_values(rows), source)
    cells = [names, *([cell_text(row[name]) for name in names] for row in rows)]
    name = _name_of(source)
    return ParsedUnit(documents=[parsed(name, f"# {name}\n\n{pipe_table(cells)}", "parquet")])


def _from_values(rows: Iterable[Any]) -> Iterator[tuple[int | None, _Found]]:
    for number, row in enumerate(rows, start=1):
        try:
            yield number, _from_row(row)
        except UnusableError as error:
            yield number, error


def _name_of(source: str) -> str:
    """`a/annual_report.txt` -> `annual report`"""
    return PurePosixPath(without_suffix(source)).name.replace("_", " ")
