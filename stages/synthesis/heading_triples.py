"""Triples of infobox-like headings (country profiles): attributes, numbers, dates, and one per entry of a list value.

    ### Land boundaries            (Algeria) --land boundaries (border countries)--> (Libya), 989 km
    #### border countries          with list span = the whole line, so that "the longest" can be told from the same evidence
    Libya 989 km; Mali 1,359 km

Unlike `heading_facts`, values that two headings give differently are all kept: that a path is ambiguous is the graph's to say.
"""

from __future__ import annotations

import re

from stages.common.records import Document
from stages.synthesis.dates import parse_date
from stages.synthesis.facts import Fact, candidate_facts
from stages.synthesis.lists import parse_list
from stages.synthesis.naming import is_name
from stages.synthesis.quantities import plain
from stages.synthesis.triples import TripleRows, document_key

ALIAS_LEAVES = ("abbreviation", "conventional short form", "conventional long form", "short name", "also known as")
MAX_TEXT_CHARACTERS = 60

_BRACKETS = re.compile(r" \([^()]*\)$")


def heading_triples(document: Document, entity: str, head_type: str, rows: TripleRows) -> None:
    """Add the triples of a document's headings."""
    for fact in candidate_facts(document, entity):
        relation = fact.attribute if not fact.period else f"{fact.attribute} ({fact.period})"
        if fact.labels[-1].casefold() in ALIAS_LEAVES:
            for name in fact.text.split(" or "):
                _add(document, fact, head_type, f"alias: {fact.attribute}", name.strip(), "alias", rows, fact.text)
        if fact.quantity is not None:
            _add(document, fact, head_type, relation, fact.text, "number", rows)
            continue
        items = parse_list(fact.text)
        if items is not None:
            position = fact.start
            for item in items:
                start = document.text.find(item.name, position, fact.end)
                if start < 0:
                    break
                position = start + len(item.name)
                _add_item(
                    document,
                    fact,
                    head_type,
                    relation,
                    start,
                    item.name,
                    plain(item.quantity.value),
                    item.quantity.unit,
                    rows,
                )
            continue
        bare = _BRACKETS.sub("", fact.text)
        date = parse_date(bare)
        if date is not None:
            _add(document, fact, head_type, relation, bare, "date", rows, number=date)
        elif is_name(bare):
            _add(document, fact, head_type, relation, bare, "name", rows)
        elif len(bare) <= MAX_TEXT_CHARACTERS:
            _add(document, fact, head_type, relation, bare, "text", rows)


def _add(
    document: Document,
    fact: Fact,
    head_type: str,
    relation: str,
    text: str,
    tail_type: str,
    rows: TripleRows,
    within: str = "",
    number: str = "",
) -> None:
    offset = (within or fact.text).index(text)
    rows.add(
        head=document_key(document.id),
        head_name=fact.entity,
        head_type=head_type,
        relation=relation,
        tail_text=text,
        tail_type=tail_type,
        number=number or (plain(fact.quantity.value) if fact.quantity else ""),
        unit=fact.quantity.unit if fact.quantity else "",
        document_id=document.id,
        span=(fact.start + offset, fact.start + offset + len(text)),
        evidence=[(item.start, item.end) for item in fact.evidence],
        labels=fact.labels,
        rule="heading",
    )


def _add_item(
    document: Document,
    fact: Fact,
    head_type: str,
    relation: str,
    start: int,
    name: str,
    number: str,
    unit: str,
    rows: TripleRows,
) -> None:
    rows.add(
        head=document_key(document.id),
        head_name=fact.entity,
        head_type=head_type,
        relation=relation,
        tail_text=name,
        tail_type="name",
        number=number,
        unit=unit,
        document_id=document.id,
        span=(start, start + len(name)),
        list_span=(fact.start, fact.end),
        evidence=[(item.start, item.end) for item in fact.evidence],
        labels=fact.labels,
        rule="list",
    )
