"""Units on one footing: magnitudes and metric prefixes become factors, so that "$0.9 billion" and "$34 million" compare.

Every factor is exact. Currencies are units of their own and are never converted into each other; quantities of different
base units are never compared. An unknown unit stays as it is written, with its magnitude taken off.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from stages.synthesis.currencies import CODES, CURRENCIES, MONEY

_MAGNITUDES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# unit as written -> (base unit, power of ten that one of it is)
_POWERS = {
    "mm": ("m", -3),
    "cm": ("m", -2),
    "km": ("m", 3),
    "sq km": ("sq m", 6),
    "km²": ("sq m", 6),
    "ha": ("sq m", 4),
    "hectares": ("sq m", 4),
    "kg": ("kg", 0),
    "metric tons": ("kg", 3),
    "metric tonnes": ("kg", 3),
    "tonnes": ("kg", 3),
    "kt": ("kg", 6),
    "metric tonnes of CO2": ("kg of CO2", 3),
    "metric tons of CO2": ("kg of CO2", 3),
    "kWh": ("Wh", 3),
    "MWh": ("Wh", 6),
    "GWh": ("Wh", 9),
    "TWh": ("Wh", 12),
    "kW": ("W", 3),
    "MW": ("W", 6),
    "GW": ("W", 9),
    "percent": ("%", 0),
    "US dollars": ("dollars", 0),
    "U.S. dollars": ("dollars", 0),
    **{code: (CURRENCIES[code], 0) for code in sorted(CODES)},
}
_KNOWN_CAPITALS = frozenset({"GDP", "CO2", "Btu", "BTU", "MW", "GW", "MWh", "GWh", "TWh", "US", "U.S."}) | CODES
_SCALE_WORDS = {"thousand": 3, "million": 6, "billion": 9}
# "in millions", "(millions of dollars)", "$ millions", "Dollars in Millions", "Millions, except per share amounts"
_SCALE = re.compile(
    r"(?:\bin |[($€£¥] ?|(?:^|, ?)(?=\w+,))(?:us |u\.s\. )?(?:dollars |amounts |shares )?(thousand|million|billion)s?\b"
    r"|\b(thousand|million|billion)s of (?:u\.s\. |us )?(?:dollars|euros|pounds)\b",
    re.IGNORECASE,
)
_LONGEST_MONEY = sorted(MONEY, key=lambda name: (-len(name), name))  # "dollars" ends other currencies, too
_BARE_SCALE = re.compile(r"(thousand|million|billion)s", re.IGNORECASE)


@dataclass(frozen=True)
class Scale:
    """What a table says of its numbers: `phrase` as it is said in a question ("in millions"), the factor, where it stands."""

    phrase: str
    factor: Decimal
    start: int
    end: int


def base_unit(unit: str) -> tuple[Decimal, str]:
    """The factor and the base unit of a unit as written.

    >>> base_unit("billion dollars")
    (Decimal('1000000000'), 'dollars')
    >>> base_unit("sq km")
    (Decimal('1000000'), 'sq m')
    """
    words = unit.split()
    power = 0
    if words and (magnitude := _MAGNITUDES.get(words[0].rstrip("s").casefold())) is not None:
        power, words = magnitude, words[1:]
    rest = " ".join(words)
    base, more = _POWERS.get(rest, (rest, 0))
    return Decimal(1).scaleb(power + more) if power + more < 0 else Decimal(10 ** (power + more)), base


def is_clear_unit(unit: str) -> bool:
    """False for a "unit" that holds a name: "million VIENNA (capital)" is a number with something else after it."""
    currency = next((name for name in _LONGEST_MONEY if unit.endswith(name)), "")  # "million Australian dollars"
    unit = unit.removesuffix(currency)
    return not any(word[:1].isupper() and word not in _KNOWN_CAPITALS for word in unit.split())


def find_scale(text: str, offset: int = 0) -> Scale | None:
    """The first scale that a caption or header states; `offset` is added to its place."""
    match = _SCALE.search(text)
    if match is None:
        bare = _BARE_SCALE.match(text)  # a header cell that begins with it: "Millions"
        if bare is None or len(text) > 60:
            return None
        match = bare
    word = next(group for group in match.groups() if group).casefold()
    return Scale(f"in {word}s", Decimal(10 ** _SCALE_WORDS[word]), offset + match.start(), offset + match.end())


def common_unit(units: Iterable[str]) -> str:
    """The unit that most of them are written in, the first in the alphabet among equals."""
    counts = Counter(units)
    return min(counts, key=lambda unit: (-counts[unit], unit))
