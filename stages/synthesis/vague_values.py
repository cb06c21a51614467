"""Vague descriptions of one value: what they say, whether a value satisfies them, whether a text might (paper section 3.1).

    date    {"period": ["half", 1950], "digit": "5", "month": 0}   "falls in a year of the second half of the 20th century that ends
                                                                   with the digit 5"
    number  {"least": "200", "below": "300", "unit": "km"}         "is between 200 and 300 km"
    name    {"initials": "NPA"}                                    'consists of three words with the initials "N. P. A."'
    kind    {"word": "Assembly", "length": 3}                       'is a name of three words, one of them "Assembly"'
    word    {"letter": "K", "letters": 5}                          'is one word of five letters that begins with "K"'
    ending  {"end": "334"}                                         'ends with "334"'
    count   {"entries": 3, "letter": "g"}                          'lists three entries, the first beginning with "g"'

`holds` is strict and is what a proof needs of the described value; `may_hold` is generous and is what excludes all others: a
year on the edge of a century, a part of a longer text, a number in a remark count as satisfying.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from stages.synthesis.dates import DATE, parse_date

Vague = Mapping[str, Any]

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
MAGNITUDES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SPANS = {"decade": 9, "quarter": 25, "half": 50, "century": 100}  # years after the first that may count
_SPLIT = re.compile(r"[\s()\[\],;:/\-–\"“”_]+")
_NUMBER = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*(thousand|million|billion|trillion)?", re.IGNORECASE)
_YEAR = re.compile(r"(?<!\d)\d{3,4}(?!\d)")
_SLASHED = re.compile(r"\d{1,2}/\d{1,2}/(\d{4})")
_CENTURY = re.compile(r"\bcentur|B\.?C\.?E?\b", re.IGNORECASE)


def holds(vague: Vague, value: str, unit: str = "") -> bool:
    """True if the value, as a proof's row gives it, satisfies the description beyond dispute."""
    test = vague["test"]
    if test == "date":
        date = parse_date(value)
        return date is not None and _date_fits(vague, *_parts_of(date), slack=0)
    if test == "number":
        try:
            base, bare = base_number(Decimal(value), unit)
        except InvalidOperation:
            return False
        return bare == vague["unit"] and in_range(vague, base, slack=False)
    words = words_of(value)
    if test == "name":
        return len(words) > 1 and initials(words) == vague["initials"]
    if test == "kind":
        return len(words) == vague["length"] and vague["word"] in words
    if test == "word":
        return len(words) == 1 and len(value) == vague["letters"] and value[:1] == vague["letter"]
    if test == "ending":
        return value.endswith(vague["end"])
    entries = entries_of(value)
    return len(entries) == vague["entries"] and (not vague["letter"] or value[:1] == vague["letter"])


@dataclass(frozen=True, eq=False)
class Reading:
    """A text as `may_hold` reads it; each reading is worked out once."""

    text: str

    @cached_property
    def folded(self) -> str:
        """The text without case."""
        return self.text.casefold()

    @cached_property
    def words(self) -> list[str]:
        """Its words without case."""
        return [word for word in _SPLIT.split(self.folded) if word]

    @cached_property
    def initials(self) -> str:
        """The first letters of its words."""
        return initials(self.words)

    @cached_property
    def dates(self) -> list[tuple[int, int]] | None:
        """Years and months (0: not said) that it speaks of; None where it speaks of centuries or of B.C."""
        return None if _CENTURY.search(self.text) else list(_dates_in(self.text))

    @cached_property
    def numbers(self) -> list[Decimal]:
        """Its numbers, with either sign, with and without their magnitude."""
        return list(_numbers_in(self.text))

    @cached_property
    def counts(self) -> set[int]:
        """How many entries it may list."""
        return {len(re.split(mark, self.text)) for mark in (r"[,;]", r",", r";", r"[,;]|\band\b")}


def may_hold(vague: Vague, said: Reading) -> bool:
    """True if a text, whole or in a part, could be said to satisfy the description."""
    test = vague["test"]
    if test == "date":
        return said.dates is None or any(_date_fits(vague, *date, slack=1) for date in said.dates)
    if test == "number":
        return any(in_range(vague, number) for number in said.numbers)
    if test == "ending":
        return any(part.endswith(vague["end"].casefold()) for part in re.split(r"[\s,;]+", said.folded))
    if test == "name":
        return vague["initials"].casefold() in said.initials
    if test == "kind":
        return len(said.words) >= vague["length"] and vague["word"].casefold() in said.folded
    if test == "word":
        letter, letters = vague["letter"].casefold(), vague["letters"]
        return any(word[0] == letter and len(word) == letters for word in said.words)
    return vague["entries"] in said.counts and (not vague["letter"] or said.folded[:1] == vague["letter"].casefold())


def words_for(vague: Vague) -> str:
    """The description as a predicate: what follows "whose independence"."""
    test = vague["test"]
    if test == "date":
        return f"falls {_when(vague)}"
    if test == "number":
        return f"is {range_words(vague)}"
    if test == "name":
        letters = " ".join(f"{letter}." for letter in vague["initials"])
        return f'consists of {_count(len(vague["initials"]))} words with the initials "{letters}"'
    if test == "kind":
        return f'is a name of {_count(vague["length"])} words, one of them "{vague["word"]}"'
    if test == "word":
        return f'is one word of {_count(vague["letters"])} letters that begins with "{vague["letter"]}"'
    if test == "ending":
        return f'ends with "{vague["end"]}"'
    first = f', the first beginning with "{vague["letter"]}"' if vague["letter"] else ""
    return f"lists {_count(vague['entries'])} entries{first}"


def range_words(vague: Vague) -> str:
    """A range: "between 200 and 300 km", "above 5 percent"."""
    unit = f" {vague['unit'].replace('%', 'percent', 1)}".rstrip()
    least, below = (spoken(Decimal(vague[key])) if vague[key] else "" for key in ("least", "below"))
    if least and below:
        return f"between {least} and {below}{unit}"
    return f"above {least}{unit}" if least else f"below {below}{unit}"


def base_number(value: Decimal, unit: str) -> tuple[Decimal, str]:
    """A number without the magnitude in its unit: (1.9, "million tons") -> (1900000, "tons")."""
    magnitude, _, rest = unit.partition(" ")
    if magnitude in MAGNITUDES:
        return value.scaleb(MAGNITUDES[magnitude]), rest
    return value, unit


def in_range(vague: Vague, number: Decimal, slack: bool = True) -> bool:
    """True if a number is in the range; on its edge only with `slack`."""
    least, below = (Decimal(vague[key]) if vague[key] else None for key in ("least", "below"))
    if not slack and number in (least, below):
        return False
    return (least is None or number >= least) and (below is None or number <= below)


def spoken(number: Decimal) -> str:
    """A round number as a sentence says it: 1500000 -> "1.5 million", 20000 -> "20,000"."""
    for name in reversed(MAGNITUDES):
        scaled = number.scaleb(-MAGNITUDES[name])
        if name != "thousand" and abs(scaled) >= 1:
            return f"{scaled.normalize():,f} {name}"
    return f"{number.normalize():,f}"


def words_of(text: str) -> list[str]:
    """The words of a name or of an identifier in snake case."""
    return text.replace("_", " ").split()


def initials(words: list[str]) -> str:
    """First letters, as they are written."""
    return "".join(word[0] for word in words)


def entries_of(text: str) -> list[str]:
    """The entries of "green, white, red"; none where brackets or several kinds of marks leave doubt."""
    entries = re.split(r", |; ", text)
    plain = all(entry and not re.search(r"[()\[\],;:]|\band\b|\bor\b", entry) for entry in entries)
    return entries if plain and len(entries) > 1 else []


def _count(number: int) -> str:
    return NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)


def _when(vague: Vague) -> str:
    month = MONTHS[vague["month"] - 1] if vague["month"] else ""
    ends = f"ends with the digit {vague['digit']}"
    name, start = vague["period"] or ("", 0)
    if name in ("before", "after"):
        return f"{name} the year {start}"
    period = _period(name, start) if name else ""
    if vague["digit"]:
        year = f"a year of {period} that {ends}" if period else f"a year that {ends}"
        return f"in {month} of {year}" if month else f"in {year}"
    if month and period:
        return f"in a {month} of {period}"
    return f"in the month of {month}" if month else f"in {period}"


def _period(name: str, start: int) -> str:
    if name == "decade":
        return f"the {start}s" if start % 100 else f"the years {start} to {start + 9}"
    number = start // 100 + 1
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number // 10 != 1 else 0, "th")
    century = f"the {number}{ending} century"
    if name == "half":
        return f"the {('first', 'second')[start % 100 // 50]} half of {century}"
    if name == "quarter":
        return f"the {('first', 'second', 'third', 'last')[start % 100 // 25]} quarter of {century}"
    return century


def _parts_of(date: str) -> tuple[int, int]:
    """Year and month (0: not said) of an ISO date."""
    return int(date[:4]), int(date[5:7] or 0)


def _date_fits(vague: Vague, year: int, month: int, slack: int) -> bool:
    """Without slack beyond dispute; with a slack of 1 on any reading (is 1900 of the 20th century?), and where no month is said."""
    if vague["digit"] and str(year)[-1] != vague["digit"]:
        return False
    if vague["month"] and month != vague["month"] and (month or not slack):
        return False
    if not vague["period"]:
        return True
    name, start = vague["period"]
    if name == "before":
        return year < start + slack
    if name == "after":
        return year > start - slack
    if name == "decade":
        return bool(start <= year <= start + 9)
    return bool(start + 1 - slack <= year <= start + _SPANS[name] - 1 + slack)


def _dates_in(text: str) -> Iterator[tuple[int, int]]:
    for match in DATE.finditer(text):
        date = parse_date(match[0])
        yield _parts_of(date) if date else (int(match[0][-4:]), 0)
    yield from ((int(match[1]), 0) for match in _SLASHED.finditer(text))
    yield from ((int(match[0]), 0) for match in _YEAR.finditer(DATE.sub(" ", text)))


def _numbers_in(text: str) -> Iterator[Decimal]:
    for match in _NUMBER.finditer(text):
        number = Decimal(match[1].replace(",", "").rstrip("."))
        yield number
        yield -number
        if match[2]:
            yield number.scaleb(MAGNITUDES[match[2].lower()])
