"""Triples of research papers: journal, year and DOI from the line under the title, and the works of the reference list.

    54. 54 Sulston JE Horvitz HR Post-embryonic cell lineages of the nematode. Dev Biol 1977 56 110 156
    (the paper) --reference 54--> (work "Post-embryonic cell lineages of the nematode")  --year--> 1977

Lists are written in many styles; a line whose parts cannot be told apart gives nothing.
"""

from __future__ import annotations

import re

from stages.common.records import Document
from stages.synthesis.entities import normalise_name
from stages.synthesis.triples import TripleRows, document_key

_MASTHEAD = re.compile(
    r"^(?P<journal>[A-Z][^\n,]{2,60}), (?P<year>(?:19|20)[0-9]{2})\. doi:(?P<doi>10\.[0-9]{4,9}/[^\s]{3,60}?)\. ",
    re.MULTILINE,
)
_HEADING = re.compile(r"^#{1,3} (?:references|bibliography|literature cited)\s*$", re.IGNORECASE | re.MULTILINE)
_LINE = re.compile(r"^(?P<number>[0-9]{1,3})\. (?:[0-9]{1,3} )?(?P<rest>[^\n]{30,500})$", re.MULTILINE)
# Authors, year, title, source; or authors, title, source, year.
_YEAR_FIRST = re.compile(
    r"(?P<authors>[^0-9]{3,200}?) ?(?P<year>(?:19|20)[0-9]{2})[a-z]? (?P<title>[A-Z][^.?]{24,220}[.?])(?: (?P<source>[A-Z][A-Za-z .()&,-]{2,60}?)(?= [0-9]))?"
)
_YEAR_LAST = re.compile(
    r"(?P<authors>(?:[A-Z][\w'’-]+ [A-Z]{1,3} )+)(?P<title>[A-Z][^.?]{24,220}[.?]) (?P<source>[A-Z][A-Za-z .()&,-]{2,60}?) (?P<year>(?:19|20)[0-9]{2})\b"
)
_FIRST_AUTHOR = re.compile(r"(?P<name>[A-Z][a-zß-ÿ'’]{2,}(?:-[A-Z][a-zß-ÿ'’]+)*)(?=[A-Z ])")
MASTHEAD_CHARACTERS = 1500


def is_paper(document: Document) -> bool:
    """True if journal, year and DOI stand below the title."""
    return _MASTHEAD.search(document.text, 0, MASTHEAD_CHARACTERS) is not None


def end_of_text(document: Document) -> int:
    """Where the reference list begins, or the end: what stands in it is no running text."""
    heading = _HEADING.search(document.text)
    return heading.start() if heading else len(document.text)


def citation_triples(document: Document, name: str, rows: TripleRows) -> None:
    """Add a paper's triples."""
    masthead = _MASTHEAD.search(document.text, 0, MASTHEAD_CHARACTERS)
    if masthead is None:
        return
    paper = (document_key(document.id), name, "paper")
    line = (masthead.start(), masthead.end())
    for relation, group, kind in (
        ("journal", "journal", "name"),
        ("year of publication", "year", "date"),
        ("DOI", "doi", "text"),
    ):
        _add(
            document,
            paper,
            relation,
            masthead.span(group),
            [line],
            [],
            kind,
            rows,
            number=masthead[group] if kind == "date" else "",
        )
    heading = _HEADING.search(document.text)
    if heading is None:
        return
    for match in _LINE.finditer(document.text, heading.end()):
        parts = (
            _YEAR_FIRST.fullmatch(match["rest"]) or _YEAR_FIRST.match(match["rest"]) or _YEAR_LAST.match(match["rest"])
        )
        if parts is None:
            continue
        at = match.start("rest")
        title = (at + parts.start("title"), at + parts.end("title") - 1)
        text = " ".join(document.text[title[0] : title[1]].split())
        key = f"work:{normalise_name(text)}"
        number, whole = match["number"], [(match.start(), match.end())]
        _add(document, paper, f"reference {number}", title, whole, [f"{number}. "], "entity", rows, tail=key)
        work = (key, text, "work")
        year = (at + parts.start("year"), at + parts.end("year"))
        _add(document, work, "year of publication", year, whole, [text], "date", rows, number=parts["year"])
        author = _FIRST_AUTHOR.match(parts["authors"])
        if author is not None:
            start = at + parts.start("authors")
            _add(
                document,
                work,
                "surname of the first author",
                (start, start + author.end("name")),
                whole,
                [text],
                "name",
                rows,
            )
        if parts["source"]:
            source = (at + parts.start("source"), at + parts.end("source"))
            _add(document, work, "journal", source, whole, [text], "name", rows)


def _add(
    document: Document,
    head: tuple[str, str, str],
    relation: str,
    span: tuple[int, int],
    evidence: list[tuple[int, int]],
    labels: list[str],
    tail_type: str,
    rows: TripleRows,
    tail: str = "",
    number: str = "",
) -> None:
    rows.add(
        head=head[0],
        head_name=head[1],
        head_type=head[2],
        relation=relation,
        tail_text=document.text[span[0] : span[1]],
        tail_type=tail_type,
        tail=tail,
        number=number,
        document_id=document.id,
        span=span,
        evidence=evidence,
        labels=labels,
        rule="citation",
    )
