"""Triples of company filings: who filed, form and period, what the cover says of the company, and the cells of the tables.

(NVIDIA CORPORATION) --trading symbol--> NVDA            the company is an entity of its own: several filings speak of it
(NVIDIA CORPORATION) --10-K of January 26, 2025--> (the filing)
(the filing) --table: Net income | Year Ended Jan 26, 2025--> 72,880 (in millions)
"""

from __future__ import annotations

import re

from stages.common.records import Document, Dropped
from stages.synthesis.entities import COVER_CHARACTERS, Entity, filing_form, normalise_name
from stages.synthesis.markdown import Line, iter_lines
from stages.synthesis.phrasing import scale_note
from stages.synthesis.quantities import plain
from stages.synthesis.table_facts import table_facts
from stages.synthesis.tables import split_row
from stages.synthesis.triples import TripleRows, document_key

_CAPTIONS = (
    ("jurisdiction", re.compile(r"\(?state or other jurisdiction", re.IGNORECASE), re.compile(r"[A-Z][A-Za-z ]{3,30}")),
    (
        "I.R.S. employer identification number",
        re.compile(r"i\.?r\.?s\.? employer", re.IGNORECASE),
        re.compile(r"[0-9]{2}-[0-9]{7}"),
    ),
)
_TELEPHONE = re.compile(
    r"telephone number, including area code[:\s|]*(?P<number>\(?[0-9]{3}\)?[ -]?[0-9]{3}-[0-9]{4})", re.IGNORECASE
)
_COMMISSION = re.compile(r"commission file (?:number|no\.?)[:\s|]*(?P<number>[0-9]{1,3}-[0-9]{3,6})", re.IGNORECASE)
_SYMBOL_ROW = re.compile(
    r"^\|[^|\n]*common stock[^|\n]*\|\s*(?P<symbol>[A-Z]{1,5})\s*\|\s*(?P<exchange>[^|\n]{4,60}?)\s*\|",
    re.IGNORECASE | re.MULTILINE,
)
MAX_ROW_CHARACTERS = 240


def filing_triples(document: Document, entity: Entity, rows: TripleRows, dropped: list[Dropped]) -> None:
    """Add the triples of a filing; `entity` is its registrant with form and period."""
    cover = document.text[:COVER_CHARACTERS]
    company, name, place = _company(document, entity)
    said: list[tuple[int, int]] = []  # where the cover says whose filing this is
    if company:
        _cover(document, cover, company, name, place, rows)
        form = filing_form(cover)
        if form is not None:
            kind, period, (start, end) = form
            said = [place, (start, end)]
            rows.add(
                head=company,
                head_name=name,
                head_type="company",
                relation=f"{kind} of {' '.join(document.text[start:end].split())}",
                tail_text=document.text[start:end],
                tail_type="entity",
                tail=document_key(document.id),
                number=period,
                document_id=document.id,
                span=(start, end),
                evidence=[place, (start, end)],
                labels=[name],
                rule="cover",
            )
    for fact in table_facts(document, entity.name, dropped):
        if fact.quantity is None:
            continue
        spans = [*said, *((item.start, item.end) for item in fact.evidence)]
        rows.add(
            head=document_key(document.id),
            head_name=entity.name,
            head_type="filing",
            relation=f"table: {fact.attribute} | {fact.period}",
            tail_text=fact.text,
            tail_type="number",
            number=plain(fact.quantity.value),
            unit=fact.quantity.unit,
            scale=scale_note(fact).strip(" ()"),
            document_id=document.id,
            span=(fact.start, fact.end),
            evidence=spans,
            labels=fact.labels,
            rule="table",
        )


def _company(document: Document, entity: Entity) -> tuple[str, str, tuple[int, int]]:
    """Key, name and place of the registrant on the cover; "" if its name is not found there."""
    name = entity.name.split(" (")[0]
    start = document.text.find(name, 0, COVER_CHARACTERS)
    if start < 0:
        return "", "", (0, 0)
    return f"company:{normalise_name(name)}", name, (start, start + len(name))


def _cover(document: Document, cover: str, company: str, name: str, place: tuple[int, int], rows: TripleRows) -> None:
    def add(relation: str, start: int, end: int, evidence: list[tuple[int, int]], tail_type: str = "name") -> None:
        rows.add(
            head=company,
            head_name=name,
            head_type="company",
            relation=relation,
            tail_text=document.text[start:end],
            tail_type=tail_type,
            document_id=document.id,
            span=(start, end),
            evidence=[place, *evidence],
            labels=[name],
            rule="cover",
        )

    for relation, pattern, group, kind in (
        ("telephone number", _TELEPHONE, "number", "text"),
        ("commission file number", _COMMISSION, "number", "text"),
        ("trading symbol", _SYMBOL_ROW, "symbol", "identifier"),
        ("exchange", _SYMBOL_ROW, "exchange", "name"),
    ):
        match = pattern.search(cover)
        if match:
            add(relation, match.start(group), match.end(group), [(match.start(), match.end())], kind)
    previous: Line | None = None
    for line in iter_lines(cover):
        if not line.text.startswith("|") or len(line.text) > MAX_ROW_CHARACTERS:
            previous = previous if line.text.startswith("|---") else None
            continue
        if previous is not None:
            for relation, caption, value in _CAPTIONS:
                for cell, above in zip(split_row(line), split_row(previous), strict=False):
                    if caption.search(cell.text) and value.fullmatch(above.text):
                        add(relation, above.start, above.end, [(previous.start, line.end)])
        if set(line.text) - set("|- :"):
            previous = line
