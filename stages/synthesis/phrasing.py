"""How questions name attributes, entities and units."""

from __future__ import annotations

import re

from stages.synthesis.facts import Fact

_WITH_ARTICLE = re.compile(r"(?:United |Netherlands$|Philippines$|DRC$|.* (?:Islands|Republic|Union|Emirates)$)")
_HEAD_END = re.compile(r" (?:of|per|in|by|from|at) | - |,| \(")
_OUTSIDE_SCALE = re.compile(r"shares?\b|stock units|per |number|percent|%|ratio|rate|years?\b(?! ended)", re.IGNORECASE)
_MAGNITUDES = ("thousand", "million", "billion", "trillion")
_NOT_PLURAL = ("ss", "us", "is", "ics")


def entity_phrase(name: str) -> str:
    """With its article where the name has one: the Netherlands."""
    return f"the {name}" if _WITH_ARTICLE.match(name) else name


def attribute_phrase(fact: Fact) -> str:
    """The attribute with its year: "exports (2024)"; a table's column is named apart."""
    if not fact.period:
        return fact.attribute
    if fact.attribute.endswith(")"):
        return f"{fact.attribute[:-1]}, {fact.period})"
    return f"{fact.attribute} ({fact.period})"


def is_plain_noun(attribute: str) -> bool:
    """True if "What is the <attribute>" is English: singular and without a remark in brackets."""
    head = _HEAD_END.split(attribute, maxsplit=1)[0]
    return (
        "(" not in attribute and " - " not in attribute and not (head.endswith("s") and not head.endswith(_NOT_PLURAL))
    )


def what_is(fact: Fact) -> str:
    """Such as "What is the coastline of Chile" or "What is the figure for airports of Chile", without unit and mark."""
    return f"What {the_value(fact, 'is')} of {entity_phrase(fact.entity)}"


def the_value(fact: Fact, verb: str = "") -> str:
    """Such as "the coastline" or "the figure for airports"."""
    name = "the" if is_plain_noun(fact.attribute) else "the figure for"
    return f"{verb} {name} {attribute_phrase(fact)}".strip()


def in_unit(unit: str) -> str:
    """How a question ends: ", in km"; ", in percent of GDP"; nothing for a bare number."""
    if not unit:
        return ""
    if unit in _MAGNITUDES:
        return f", in {unit}s"
    return f", in {unit.replace('%', 'percent', 1)}" if unit.startswith("%") else f", in {unit}"


def table_cell(fact: Fact) -> str:
    """Where a cell stands: 'row "Net income", column "2024"'."""
    return f'row "{fact.attribute}", column "{fact.period}"'


def scale_note(fact: Fact) -> str:
    """The scale of a cell's table, " (in millions)"; nothing where the row or column may be outside of it (shares)."""
    if not fact.scale or _OUTSIDE_SCALE.search(f"{fact.attribute} {fact.period}"):
        return ""
    return f" ({fact.scale})"


def which_name(fact: Fact) -> str:
    """Such as "What is the capital of Kenya" or "What is given as national symbol(s) of Serbia", without mark."""
    name = "is the" if is_plain_noun(fact.attribute) else "is given as"
    return f"What {name} {attribute_phrase(fact)} of {entity_phrase(fact.entity)}"


def listed(names: list[str], last: str = "and") -> str:
    """Names in a row: A, B and C."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else names[0]
