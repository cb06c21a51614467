"""FRAMES (Krishna et al. 2024): multi-hop questions over Wikipedia pages. Scored by max(cover exact match, judge).

The published table names the pages by their links and does not hold them. A question whose pages are at hand is asked in
every mode, one without them closed book only. Pages are at hand as `context` or `pages` ([{title, text}]) of the row, or in
frames/pages/*.jsonl, one {url, title, text} a line; those are looked up by the row's links and read when they are asked about.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from stages.common.errors import InputError
from stages.evaluation.base import MODES, Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.reading import passages, qa_question
from stages.evaluation.rows import questions_of
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("frames",), patterns=("*.jsonl", "*.parquet"), hub="google/frames-benchmark")
_MAX_LINKS_CHARACTERS = 50_000

Place = tuple[Path, int]  # a file and where a line begins in it
Pages = Mapping[str, Place]


def _pages(request: LoadRequest) -> Pages:
    """Where the page of every link stands; lines that are no page are passed over."""
    found: dict[str, Place] = {}
    folders = [] if request.data_dir is None else [request.data_dir / "frames", request.data_dir]
    for path in (path for folder in folders for path in sorted(folder.glob("pages/*.jsonl"))):
        with path.open("rb") as file:
            start = 0
            for line in file:
                try:
                    page = json.loads(line)
                    if page["text"].strip():
                        found.setdefault(_name(page["url"]), (path, start))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    pass
                start += len(line)
    return found


def _name(url: str) -> str:
    """What names a page in any spelling of its link: https://en.m.wikipedia.org/wiki/Jane_%C3%81vila#Life -> Jane Ávila"""
    return unquote(url.strip().partition("#")[0].rpartition("/wiki/")[2]).replace("_", " ").strip()


def _links(row: Mapping[str, Any]) -> list[str]:
    """The row's links: `wiki_links`, a list or, in the published table, a list's text. Empty if they are no such thing."""
    given = row.get("wiki_links")
    if isinstance(given, str) and len(given) <= _MAX_LINKS_CHARACTERS:
        try:
            given = ast.literal_eval(given)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return []
    return given if isinstance(given, list) and all(isinstance(link, str) for link in given) else []


def _context(places: Sequence[Place]) -> str:
    """The pages, in order. InputError if they have changed meanwhile."""
    return passages(list(_read(places)))


def _read(places: Sequence[Place]) -> Iterator[tuple[str, str]]:
    for path, start in places:
        try:
            with path.open("rb") as file:
                file.seek(start)
                page = json.loads(file.readline())
            yield str(page.get("title") or _name(page["url"])), page["text"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} has changed while it was read: {error}. Run again.") from None


def _parse(number: dict[str, int], pages: Pages, row: dict[str, Any]) -> Question:
    number["row"] += 1
    question, answer = row.get("question") or row["Prompt"], row.get("answer") or row["Answer"]
    reasoning, given, links = row.get("reasoning_types"), row.get("context"), _links(row)
    if not given and row.get("pages"):
        given = passages([(str(page["title"]), page["text"]) for page in row["pages"]])
    places = [pages[_name(link)] for link in links if _name(link) in pages]
    whole = bool(given) or (bool(links) and len(places) == len(links))  # half of the pages would be another question
    return qa_question(
        benchmark="frames",
        name=str(row.get("id") or f"frames-{row.get('Unnamed: 0', number['row'])}"),
        question=question,
        golds=[answer],
        context=partial(str, given) if given else partial(_context, places if whole else []),
        groups={"reasoning": str(reasoning)} if reasoning else {},
        modes=MODES if whole else ("closed_book",),
    )


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, partial(_parse, {"row": 0}, _pages(request)), broken, request.limit)


FRAMES = Benchmark(
    name="frames",
    title="FRAMES: multi-hop questions over Wikipedia pages, closed book where the pages are not at hand",
    source="hub google/frames-benchmark, 824 questions (Apache-2.0), without the pages",
    available=_SOURCE.available,
    load=_load,
    context_missing="their pages are not at hand: put frames/pages/*.jsonl ({url, title, text} a line, by the links of "
    "wiki_links) into the folder of --data, or ask them with --mode closed_book",
)
