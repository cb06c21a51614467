"""Four options of which one is right: of one type, one format and one magnitude, and no place that gives the right one away.

Numbers: the right one's rank among the four (smallest to largest) and its letter are dealt evenly and independently. Wrong ones
are other figures where there are any on the wanted side, else numbers as far away as those usually are; all are written
with the same digits after the point, and none ends in rounder digits than the right one alone would.
Texts: never equal, never a part of each other, never the same name spelt otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from random import Random

from stages.synthesis.entities import normalise_name

OPTIONS = 4
NEAREST = 6  # wrong numbers are drawn from that many nearest ones on a side
_FARTHEST = Decimal(6)  # a figure more than six times as large (or small) is no plausible mistake
_CLOSEST = Decimal("0.015")  # two options differ by 1.5 % at least: no rounding makes one the other
_TRIES = 24
_STEPS = (Decimal("0.04"), Decimal("0.45"))


class Deal:
    """Ranks and letters, dealt so that each of the 16 pairs comes once in every 16."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._hand: list[tuple[int, int]] = []

    def __call__(self) -> tuple[int, int]:
        """(rank of the right option from the smallest, its position), each 0 to 3."""
        if not self._hand:
            self._hand = [(rank, position) for rank in range(OPTIONS) for position in range(OPTIONS)]
            self._chance.shuffle(self._hand)
        return self._hand.pop()

    def give_back(self, pair: tuple[int, int]) -> None:
        """A pair that could not be used, for a later question."""
        self._hand.insert(0, pair)


def number_options(
    right: Decimal, decimals: int, others: Sequence[Decimal], rank: int, chance: Random, most: Decimal | None = None
) -> list[Decimal] | None:
    """Three wrong numbers, `rank` of them below the right one; None if that cannot be done.

    others: figures of the same unit that may serve as wrong ones. most: no wrong one is larger (100 for shares).
    """
    if right == 0:
        return None
    unit = Decimal(1).scaleb(-decimals)
    size = abs(right)
    near = [
        value
        for value in dict.fromkeys(others)
        if value == value.quantize(unit)
        and (value > 0) == (right > 0)
        and size / _FARTHEST <= abs(value) <= size * _FARTHEST
        and _round_digits(value, unit) <= _round_digits(right, unit) + 1
    ]
    chosen: list[Decimal] = []
    for below, count in ((True, rank), (False, OPTIONS - 1 - rank)):
        side = sorted((v for v in near if (v < right) == below and v != right), key=lambda value: abs(value - right))
        candidates = chance.sample(side[:NEAREST], min(NEAREST, len(side)))
        found = 0
        for value in (*candidates, *_perturbed(right, unit, below, chance)):
            if found == count:
                break
            if (most is None or value <= most) and all(_apart(value, other, unit) for other in (right, *chosen)):
                chosen.append(value)
                found += 1
        if found < count:
            return None
    return chosen


def _perturbed(right: Decimal, unit: Decimal, below: bool, chance: Random) -> Iterator[Decimal]:
    """Numbers some percent below or above, as round as the right one."""
    grain = unit.scaleb(_round_digits(right, unit))
    for _ in range(_TRIES):
        share = Decimal(str(round(chance.uniform(float(_STEPS[0]), float(_STEPS[1])), 4)))
        toward_zero = below == (right > 0)
        value = right * (1 - share if toward_zero else 1 + share / (1 - share))
        value = (value / grain).quantize(Decimal(1), rounding=ROUND_HALF_UP) * grain
        if (value < right) == below and value != right and (value > 0) == (right > 0):
            yield value


def _apart(value: Decimal, other: Decimal, unit: Decimal) -> bool:
    gap = abs(value - other)
    return gap >= max(2 * unit, _CLOSEST * max(abs(value), abs(other)))


def _round_digits(value: Decimal, unit: Decimal) -> int:
    """How many of the digits that are shown are zeros at the end: 4,500 has two; at most all but the first."""
    digits = str(int((abs(value) / unit).to_integral_value()))
    return min(len(digits) - len(digits.rstrip("0")), len(digits) - 1)


def count_options(right: int, low: int, high: int, rank: int, chance: Random) -> list[int] | None:
    """Three other whole numbers between `low` and `high`, `rank` of them below; the nearest ones. None if impossible."""
    below = list(range(max(low, right - 3), right))
    above = list(range(right + 1, min(high, right + 3) + 1))
    if len(below) < rank or len(above) < OPTIONS - 1 - rank:
        return None
    return chance.sample(below, rank) + chance.sample(above, OPTIONS - 1 - rank)


def text_options(right: str, others: Sequence[str], chance: Random) -> list[str] | None:
    """Three other texts, none of them a spelling or a part of the right one or of each other; None if there are too few."""
    chosen: list[str] = []
    for other in chance.sample(others, len(others)):
        if all(_different(other, text) for text in (right, *chosen)):
            chosen.append(other)
            if len(chosen) == OPTIONS - 1:
                return chosen
    return None


def _different(a: str, b: str) -> bool:
    first, second = f" {normalise_name(a)} ", f" {normalise_name(b)} "
    return bool(first.strip()) and bool(second.strip()) and first not in second and second not in first


def written(value: Decimal, decimals: int) -> str:
    """A number as an option shows it: "12,345.60"."""
    return f"{value:,.{decimals}f}"
