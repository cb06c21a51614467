"""Attributes of a document: a heading path whose body is one short value, with exact spans.

    ### Area              Fact(attribute="area (land)", text="7,682,300 sq km",
    #### land             quantity=7682300 sq km, start/end = the value's characters)
    7,682,300 sq km

Departs from the paper: facts and triples come from structure (headings, table cells), not from an LLM's reading, so
each one is exact and carries its span. A heading path that occurs twice with different values is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from stages.common.records import Document, Dropped, Evidence
from stages.synthesis.markdown import Heading, Line, sections
from stages.synthesis.quantities import Quantity, parse_quantity

MAX_VALUE_CHARACTERS = 300
MAX_FACTS_PER_DOCUMENT = 4000
MAX_JOINED_EVIDENCE_CHARACTERS = 160
MAX_DETAIL_CHARACTERS = 200

_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_SKIPPED_STARTS = ("|", "- ", "* ", "> ", "```", "<", "![", "1. ", "note:", "NA")
_SKIPPED_LEAVES = ("note", "email", "telephone", "fax", "website", "mailing address", "references")


@dataclass(frozen=True)
class Fact:
    """(entity of the document, attribute, period) -> value.

    attribute: how a question names it, e.g. "life expectancy at birth (male)" or a table's row.
    period:    a year or a table's column, else "".
    text:      the value as the document writes it; `start`, `end` are its characters (number and unit if it is one).
    labels:    headings (or row and column) that name the value; each occurs in the evidence.
    evidence:  spans that suffice to read the value off, in document order.
    """

    document_id: str
    entity: str
    attribute: str
    period: str
    text: str
    start: int
    end: int
    quantity: Quantity | None
    labels: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    group: str = ""
    source: str = "heading"  # or "table"
    caption: str = ""
    scale: str = ""
    neighbours: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """What makes two facts of different documents comparable."""
        return self.attribute.casefold(), self.period.casefold()


def heading_facts(document: Document, entity: str, dropped: list[Dropped]) -> list[Fact]:
    """The facts under a document's headings, each (attribute, period) once. Refused ones go to `dropped`."""
    by_key: dict[tuple[str, str], list[Fact]] = {}
    for count, fact in enumerate(candidate_facts(document, entity)):
        if count >= MAX_FACTS_PER_DOCUMENT:
            dropped.append(_drop(document, "too_many_facts", f"only the first {MAX_FACTS_PER_DOCUMENT} are read"))
            break
        by_key.setdefault(fact.key, []).append(fact)
    kept = []
    for facts in by_key.values():
        values = {fact.text for fact in facts}
        if len(values) > 1:
            detail = f"{facts[0].attribute!r} is given as {facts[0].text!r} and as {facts[1].text!r}"
            dropped.append(_drop(document, "ambiguous_attribute", detail))
            continue
        kept.append(facts[0])
        if facts[0].quantity is None and facts[0].text[:1].isdigit():
            dropped.append(_drop(document, "no_clear_number", f"{facts[0].attribute!r}: {facts[0].text!r}"))
    return kept


def candidate_facts(document: Document, entity: str) -> Iterator[Fact]:
    """Every heading path with one short value, also those that say different things (`heading_facts` drops them)."""
    found = list(sections(document.text))
    if found and found[0][0].level == 1:
        found = found[1:]  # the title
    # With three levels below the title the highest are chapters ("Geography"), which do not name a value.
    has_chapters = len({heading.level for heading, _ in found}) >= 3
    path: list[Heading] = []
    for heading, body in found:
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        if len(body) != 1 or heading.title.casefold() in _SKIPPED_LEAVES:
            continue
        parts = path[1:] if has_chapters and len(path) > 1 else path
        fact = _fact(document, entity, parts, body[0])
        if fact is not None:
            yield fact


def _fact(document: Document, entity: str, path: list[Heading], line: Line) -> Fact | None:
    text = line.text.strip()
    if not 0 < len(text) <= MAX_VALUE_CHARACTERS or text.startswith(_SKIPPED_STARTS):
        return None
    start = line.start + line.text.index(text)
    leaf = path[-1].title
    # "agricultural land: arable land" -> "arable land: 4% (2023 est.)": the label is said twice.
    label, colon, rest = text.partition(": ")
    if colon and leaf.casefold().endswith(label.casefold()):
        start += len(text) - len(rest.lstrip())
        text = rest.lstrip()
    quantity = parse_quantity(text)
    attribute, period = name_attribute([heading.title for heading in path])
    end = start + len(text)
    if quantity is not None:
        end = start + quantity.end
        start += quantity.start
    return Fact(
        document_id=document.id,
        entity=entity,
        attribute=attribute,
        period=period,
        text=document.text[start:end],
        start=start,
        end=end,
        quantity=quantity,
        labels=tuple(heading.title for heading in path[-2:]),
        evidence=_evidence(document, path, line.start + len(line.text.rstrip())),
        group=path[0].title,
    )


def _evidence(document: Document, path: list[Heading], end: int) -> tuple[Evidence, ...]:
    """From the parent heading to the value if they are near each other, else two spans."""
    leaf = path[-1]
    if len(path) == 1:
        return (span_evidence(document, leaf.start, end),)
    parent = path[-2]
    if end - parent.start <= MAX_JOINED_EVIDENCE_CHARACTERS:
        return (span_evidence(document, parent.start, end),)
    return (span_evidence(document, parent.start, parent.end), span_evidence(document, leaf.start, end))


def name_attribute(path: list[str]) -> tuple[str, str]:
    """How a question names a heading path, and its year.

    ["Exports", "Exports 2024"] -> ("exports", "2024");  ["Area", "land"] -> ("area (land)", "")
    """
    head, rest = path[0], path[1:]
    period = ""
    details = []
    for part in rest:
        trimmed = part[len(head) :].strip() if part.casefold().startswith(head.casefold()) else part
        if _YEAR.fullmatch(trimmed):
            period = trimmed
        elif trimmed and trimmed != "name":  # "Capital", "name": the capital
            details.append(trimmed.removeprefix("(").removesuffix(")") if trimmed.startswith("(") else trimmed)
    name = f"{_lower_first(head)} ({': '.join(details)})" if details else _lower_first(head)
    return name, period


def _lower_first(text: str) -> str:
    """Lower the first letter, unless the word is an acronym or starts a proper name ("GDP", "Gini Index")."""
    words = text.split()
    if len(words[0]) > 1 and not words[0][1:].islower():
        return text
    if len(words) > 1 and words[1][:1].isupper() and not words[1].isupper():
        return text
    return text[0].lower() + text[1:]


def span_evidence(document: Document, start: int, end: int) -> Evidence:
    """The evidence of characters [start, end)."""
    return Evidence(document_id=document.id, start=start, end=end, quote=document.text[start:end])


def with_evidence(fact: Fact, extra: Evidence | None) -> Fact:
    """The fact with one more span in front (where the document says whom it is about)."""
    return fact if extra is None else replace(fact, evidence=(extra, *fact.evidence))


def _drop(document: Document, reason: str, detail: str) -> Dropped:
    return Dropped(
        reason=reason, stage="synthesize", detail=detail[:MAX_DETAIL_CHARACTERS], record={"document_id": document.id}
    )
