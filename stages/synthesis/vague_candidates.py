"""Ways to describe a value vaguely, the vaguest first; whether one names a single entity is for obfuscate.py to find out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from stages.synthesis.vague_values import MONTHS, base_number, entries_of, holds, initials, words_of

Tier = list[dict[str, Any]]

MIN_CHOICES = 5  # values as exact as the described one that a range must leave open
MAX_WORDS = 8
# What names of offices and institutions say they are.
KIND_WORDS = frozenset(
    [
        "President",
        "King",
        "Queen",
        "Emperor",
        "Emir",
        "Sultan",
        "Chancellor",
        "Governor",
        "Ambassador",
        "Minister",
        "Premier",
        "Assembly",
        "Congress",
        "Parliament",
        "Senate",
        "House",
        "Chamber",
        "Council",
        "Diet",
        "Court",
        "Tribunal",
        "Bank",
        "University",
        "Institute",
        "Academy",
        "Journal",
        "Exchange",
        "Ministry",
        "Agency",
        "Commission",
        "Committee",
        "Union",
        "Federation",
        "Republic",
        "Kingdom",
        "Company",
        "Corporation",
        "Society",
        "Association",
        "Party",
        "Party's",
    ]
)
_PLAIN_WORD = re.compile(r"[^\W\d_][^\W\d_'’.]*(?:['’.][^\W\d_]*)*")
_ROUND = (Decimal(1), Decimal(2), Decimal(5))


def of_date(date: str) -> Iterator[Tier]:
    """Of an ISO date: centuries and months, then decades and last digits; what would say the year itself is left out."""
    year, month = int(date[:4]), int(date[5:7] or 0)
    century, half, quarter, decade = (
        [name, year // size * size] for name, size in (("century", 100), ("half", 50), ("quarter", 25), ("decade", 10))
    )
    digit = date[3]
    before, after = ["before", year // 50 * 50 + 50], ["after", (year - 1) // 10 * 10]
    tiers = [
        [_date(century), _date(half)],
        [_date(quarter), _date(digit=digit), _date(century, digit)],
        [_date(decade), _date(half, digit), _date(before), _date(after)],
        [_date(quarter, digit)],
    ]
    if month:
        tiers[0].append(_date(month=month))
        tiers[1].append(_date(century, month=month))
        tiers[2].append(_date(half, month=month))
        tiers[3] += [_date(digit=digit, month=month), _date(decade, month=month)]
    written = f"{MONTHS[month - 1]} {year}" if month else str(year)
    for tier in tiers:
        yield [vague for vague in tier if holds(vague, written)]


def _date(period: Sequence[Any] = (), digit: str = "", month: int = 0) -> dict[str, Any]:
    return {"test": "date", "period": list(period), "digit": digit, "month": month}


def of_number(value: str, unit: str) -> Iterator[Tier]:
    """Of a number above 0: its order of magnitude or a round bound, its first digit, its first two digits."""
    exact = Decimal(value)
    if exact <= 0:
        return
    number, bare = base_number(exact, unit)
    exponent = number.adjusted()
    power = Decimal(1).scaleb(exponent)
    # One in the last place that the document writes.
    last = (number / exact) * Decimal(1).scaleb(int(exact.as_tuple().exponent))
    lower = max(step * power for step in _ROUND if step * power <= number)
    upper = min(step * power for step in (*_ROUND, Decimal(10)) if step * power > number)
    leading = number // power * power
    tenth = power / 10
    fine = number // tenth * tenth
    half = fine - fine % (5 * tenth)
    for ranges in (
        [(power, 10 * power), (lower, None), (None, upper)],
        [(leading, leading + power), (lower, upper)],
        [(half, half + 5 * tenth)],
        [(fine, fine + tenth)],
    ):
        yield [
            {"test": "number", "least": _text(least), "below": _text(below), "unit": bare}
            for least, below in dict.fromkeys(ranges)
            if number not in (least, below) and (least is None or below is None or below - least >= MIN_CHOICES * last)
        ]


def _text(number: Decimal | None) -> str:
    return "" if number is None else f"{number.normalize():f}"


def of_text(text: str, attribute: str) -> Iterator[Tier]:
    """Of a name: what kind of thing it says it is, initials or length; of a list: how many entries; of a code: its end.

    A text with commas is a list where the attribute is a plural ("national color(s)", not "embassy").
    """
    words = words_of(text)
    entries = entries_of(text)
    if entries and len(entries) <= 12 and text[0].isalpha() and attribute.rstrip(") ").endswith("s"):
        count: dict[str, Any] = {"test": "count", "entries": len(entries), "letter": ""}
        yield [count]
        yield [{**count, "letter": text[0]}]
        return
    plain = all(_PLAIN_WORD.fullmatch(word) for word in words)
    if plain and 1 < len(words) <= MAX_WORDS:
        yield [{"test": "kind", "word": word, "length": len(words)} for word in words if word in KIND_WORDS]
        yield [{"test": "name", "initials": initials(words)}]
    elif plain and len(words) == 1 and len(text) >= 3:
        yield [{"test": "word", "letter": text[0], "letters": len(text)}]
    elif len(words) == 1 and len(text) >= 8 and text[-1].isalnum() and sum(map(str.isdigit, text)) >= 4:
        yield [{"test": "ending", "end": text[-2:]}]
        yield [{"test": "ending", "end": text[-3:]}]
