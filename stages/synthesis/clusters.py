"""Entity clustering: which spellings mean one entity, by rules, and a row for every merge that says why.

    merges: name (as written), entity (its key), rule, document_id, start, end (what the rule rests on), detail

Rules, in this order; a spelling that two entities of one type claim belongs to neither:
  normalised    case, accents, punctuation, a leading "the", "S." for "South"
  legal suffix  "Apple Inc." and "Apple"
  alias         the entity's own document gives the name ("US or USA", a short form, a trading symbol)
  parenthesis   "World Bank (IBRD)" in a text: the short form stands for the long one
  spelling      long names (16 letters and more) one letter apart, digits equal
Relations are clustered by case and punctuation alone: "Net sales" and "Revenue" are not the same to an accountant.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from stages.synthesis.entities import normalise_name

MERGE_SCHEMA: dict[str, Any] = {
    "name": pl.String,
    "entity": pl.String,
    "rule": pl.String,
    "document_id": pl.String,
    "start": pl.UInt32,
    "end": pl.UInt32,
    "detail": pl.String,
}

MIN_SPELLING_LETTERS = 16
_SUFFIXES = frozenset(
    [
        "inc",
        "incorporated",
        "corp",
        "corporation",
        "co",
        "company",
        "companies",
        "ltd",
        "limited",
        "llc",
        "plc",
        "lp",
        "ag",
        "sa",
        "nv",
        "gmbh",
        "group",
        "holdings",
        "holding",
    ]
)
_DIGITS = re.compile(r"[0-9]+")


def without_legal_suffix(normalised: str) -> str:
    """The name "apple inc" becomes "apple"; a name that is nothing but suffixes stays."""
    words = normalised.split()
    while len(words) > 1 and words[-1] in _SUFFIXES:
        words.pop()
    return " ".join(words)


class NameClusters:
    """Spellings of entities, each with the rule by which it was taken in."""

    def __init__(self) -> None:
        self._claims: defaultdict[str, dict[str, tuple[str, str, int, int, str]]] = defaultdict(dict)

    def claim(
        self, spelling: str, entity: str, rule: str, document_id: str = "", span: tuple[int, int] = (0, 0)
    ) -> None:
        """`entity` is called `spelling`; the first rule that says so counts."""
        normalised = normalise_name(spelling)
        if normalised:
            self._claims[normalised].setdefault(entity, (rule, document_id, *span, spelling))

    def add_names(self, names: Iterable[tuple[str, str]]) -> None:
        """(name, entity key) of entities, with their names without legal suffix, and near spellings of long ones."""
        for name, entity in names:
            self.claim(name, entity, "normalised")
            bare = without_legal_suffix(normalise_name(name))
            if bare != normalise_name(name):
                self.claim(bare, entity, "legal suffix")

    def entity_of(self, name: str) -> str | None:
        """The one entity that a spelling means, or None."""
        claims = self._claims.get(normalise_name(name), {})
        return next(iter(claims)) if len(claims) == 1 else None

    def rule_of(self, name: str) -> tuple[str, str, int, int, str] | None:
        """(rule, document id, start, end, spelling) by which the name means its entity."""
        claims = self._claims.get(normalise_name(name), {})
        return next(iter(claims.values())) if len(claims) == 1 else None

    def merges(self, used: Iterable[str]) -> pl.DataFrame:
        """A row for each of the spellings that was resolved."""
        rows = []
        for name in sorted(set(used)):
            entity, why = self.entity_of(name), self.rule_of(name)
            if entity is None or why is None:
                continue
            rule, document_id, start, end, spelling = why
            rows.append((name, entity, rule, document_id, start, end, f"{name!r} is read as {spelling!r}"))
        return pl.DataFrame(rows, schema=MERGE_SCHEMA, orient="row")


def near_spellings(keys: Iterable[str]) -> dict[str, str]:
    """Long normalised names one letter apart -> the first of them. Linear: names meet where one deletion makes them equal."""
    meeting: dict[tuple[str, tuple[str, ...]], str] = {}
    merged: dict[str, str] = {}
    for key in sorted(set(keys)):
        if len(key) < MIN_SPELLING_LETTERS:
            continue
        digits = tuple(_DIGITS.findall(key))
        forms = {key, *(key[:index] + key[index + 1 :] for index in range(len(key)))}
        found = min((meeting[form, digits] for form in forms if (form, digits) in meeting), default=None)
        if found is not None and _one_letter_apart(found, key):
            merged[key] = found
            continue
        for form in forms:
            meeting.setdefault((form, digits), key)
    return merged


def _one_letter_apart(one: str, two: str) -> bool:
    """True if one substitution, insertion or deletion turns one into the other."""
    if abs(len(one) - len(two)) > 1:
        return False
    shared = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return (
        one[shared + 1 :] == two[shared + (len(one) == len(two)) :]
        if len(one) >= len(two)
        else one[shared:] == two[shared + 1 :]
    )


def spelling_merges(merged: Mapping[str, str], prefix: str) -> pl.DataFrame:
    """The merges table of near spellings of keys."""
    rows = [
        (name, f"{prefix}{entity}", "spelling", "", 0, 0, f"one letter apart from {entity!r}")
        for name, entity in sorted(merged.items())
    ]
    return pl.DataFrame(rows, schema=MERGE_SCHEMA, orient="row")
