"""Values that are names or short phrases ("Algiers", "presidential republic"), usable as answers or descriptions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from stages.synthesis.facts import Fact

MAX_CHARACTERS = 40
MAX_WORDS = 5
MIN_LETTERS = 4  # "no" would be covered by "notable" (cover exact match)
SHARED_LETTERS = 4
MIN_ENTITIES = 4
MIN_DISTINCT_SHARE = 0.6

_SAYS_NOTHING = frozenset({"none", "n/a", "unknown", "other", "various", "not available", "not applicable"})
_REFUSED = re.compile(r"[0-9,;:&\[\]{}<>|*_`/=()\"]|\.$")


def is_name(text: str) -> bool:
    """A short phrase without numbers, markup or several parts."""
    return (
        len(text) <= MAX_CHARACTERS
        and len(text.split()) <= MAX_WORDS
        and sum(map(str.isalpha, text)) >= MIN_LETTERS
        and text.casefold() not in _SAYS_NOTHING
        and _REFUSED.search(text) is None
    )


def gives_away(fact: Fact) -> bool:
    """True if the entity's own name is in the value: "Belgian" for Belgium asks nothing."""
    value = fact.text.casefold()
    return any(word[:SHARED_LETTERS] in value for word in fact.entity.casefold().split() if len(word) >= SHARED_LETTERS)


def naming_facts(facts: Sequence[Fact]) -> list[Fact]:
    """Facts whose value is a name, of attributes that several entities have with mostly different values.

    "Dual citizenship recognised: no" tells little; "capital: Algiers" tells which country.
    """
    groups: defaultdict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.quantity is None and fact.source == "heading" and is_name(fact.text) and not gives_away(fact):
            groups[fact.key].append(fact)
    kept = []
    for group in groups.values():
        distinct = {fact.text.casefold() for fact in group}
        if len(group) >= MIN_ENTITIES and len(distinct) >= MIN_DISTINCT_SHARE * len(group):
            kept += group
    return kept
