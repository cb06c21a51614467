"""Whom a document is about, and the names under which other documents mention it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from stages.common.records import Document, Evidence
from stages.synthesis.dates import parse_date
from stages.synthesis.facts import span_evidence
from stages.synthesis.markdown import iter_lines

COVER_CHARACTERS = 6000  # a filing names its company on the first page
MAX_NAME_CHARACTERS = 90

_MARKUP = re.compile(r"&[a-z]+;?(?=\W|$)|[{}<>\\|\[\]]|\.(?:json|md|txt|html|csv)\b")
_FORM = re.compile(r"\bform (10-k|10-q|8-k|20-f)\b", re.IGNORECASE)
_PERIOD = re.compile(
    r"(?:fiscal year|quarterly period|year) ended ([A-Z][a-z]{2,8} [0-9]{1,2}, ?[0-9]{4})", re.IGNORECASE
)
_REGISTRANT = "exact name of registrant"
_SHORT = {"s": "south", "n": "north", "e": "east", "w": "west", "st": "saint", "rep": "republic", "dem": "democratic"}


@dataclass(frozen=True)
class Entity:
    """What a document is about.

    name:     as a question says it, distinct among documents ("Libya"; "Apple Inc. (10-K, September 28, 2024)").
    evidence: where the document says so, if its title does not.
    """

    document_id: str
    name: str
    evidence: Evidence | None


def entity_of(document: Document) -> Entity | None:
    """The entity: a filing's registrant, else the title before " - ". None if no clean name can be told."""
    filing = _registrant(document)
    if filing is not None:
        return filing
    name = " ".join(document.title.split(" - ")[0].split())
    if not 1 < len(name) <= MAX_NAME_CHARACTERS or _MARKUP.search(name) or not any(map(str.isalpha, name)):
        return None
    return Entity(document.id, name, None)


def _registrant(document: Document) -> Entity | None:
    cover = document.text[:COVER_CHARACTERS]
    if _REGISTRANT not in cover.casefold():
        return None
    previous = None
    for line in iter_lines(cover):
        if previous is not None and _REGISTRANT in line.text.casefold():
            break
        if any(map(str.isalpha, line.text)):
            previous = line
    if previous is None:
        return None
    name = " ".join(previous.text.replace("|", " ").split())
    if not 1 < len(name) <= MAX_NAME_CHARACTERS or name not in previous.text:
        return None
    form, period = _FORM.search(cover), _PERIOD.search(cover)
    details = ", ".join(part for part in (form and form[1].upper(), period and period[1].title()) if part)
    start = previous.start + previous.text.index(name)
    evidence = None if name in document.title else span_evidence(document, start, start + len(name))
    return Entity(document.id, f"{name} ({details})" if details else name, evidence)


def is_filing(document: Document) -> bool:
    """True if the first pages name a registrant."""
    return _REGISTRANT in document.text[:COVER_CHARACTERS].casefold()


def filing_form(cover: str) -> tuple[str, str, tuple[int, int]] | None:
    """(form, ISO date of the period, the period's characters) that a filing's cover names, or None."""
    form, period = _FORM.search(cover), _PERIOD.search(cover)
    if form is None or period is None:
        return None
    day = parse_date(" ".join(period[1].replace(",", ", ").split()).title())
    return (form[1].upper(), day, period.span(1)) if day is not None else None


def normalise_name(name: str) -> str:
    """One spelling for the many of a name: case, accents, articles, points and "S." for "South".

    >>> normalise_name("S. Korea") == normalise_name("south Korea")
    True
    """
    plain = unicodedata.normalize("NFKD", name.casefold())
    words = re.findall(r"[a-z0-9]+", "".join(c for c in plain if not unicodedata.combining(c)))
    if words and words[0] == "the":
        words = words[1:]
    if len(words) > 1:
        words = [_SHORT.get(word, word) for word in words]
    return " ".join(words)
