"""A question before its SQL is executed, and what all families write it with: SQL fragments, units, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

from stages.synthesis.corpus_table import literal
from stages.synthesis.currencies import MONEY, currencies_in
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_proofs import decimals_of
from stages.synthesis.phrasing import entity_phrase, listed
from stages.synthesis.quantities import plain
from stages.synthesis.units import base_unit, common_unit

_NUMBERS = {0: "no", 1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
_ORDINALS = {1: "", 2: "second-", 3: "third-", 4: "fourth-"}


@dataclass(frozen=True)
class Draft:
    """A question whose answer is still to be computed.

    expression: an SQL expression over `facts` with one value, in base units.
    figures:    the rows that it reads.
    factor:     one of the asked unit in base units; the answer is expression / factor.
    decimals:   digits after the point; `rounded`: the question says so, else these digits are exact.
    parameters: what the family chose (threshold, n, roles), for tests that compute the answer without SQL.
    """

    family: str
    question: str
    expression: str
    figures: tuple[Figure, ...]
    factor: Decimal = Decimal(1)
    decimals: int | None = None
    rounded: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """The whole statement. Without decimals the expression's value is the answer as it is (text, count, year)."""
        if self.decimals is None:
            return f"SELECT {self.expression}"
        divided = self.expression if self.factor == 1 else f"({self.expression}) / {plain(self.factor)}"
        return f"SELECT ROUND({divided}, {self.decimals})"


@dataclass(frozen=True)
class Asked:
    """The unit in which an answer is asked: the end of the question's sentence, its factor, and exact decimals."""

    phrase: str
    factor: Decimal
    decimals: int


def asked_unit(figures: Sequence[Figure]) -> Asked:
    """The unit that most of the figures are printed in; `decimals` suffice for sums and differences to be exact."""
    shown = common_unit(figure.shown for figure in figures)
    factor = next(figure.factor for figure in figures if figure.shown == shown)
    decimals = max(decimals_of(figure.value / factor) for figure in figures)
    return Asked(_unit_phrase(shown, figures), factor, decimals)


def _unit_phrase(shown: str, figures: Sequence[Figure]) -> str:
    """Currency is said where a cell shows its sign and the scale is known; an unscaled number is only "as printed"."""
    if not figures[0].is_cell:
        return unit_phrase(shown)
    money = next((name for figure in figures for name in currencies_in(figure.text) if name in MONEY), "")
    if shown.startswith("in "):
        return f", {shown} of {money}" if money else f", {shown}"
    if base_unit(shown)[1] in MONEY:
        return f", in {money}" if money and figures[0].scaled else ""
    return unit_phrase(shown)


def unit_phrase(unit: str) -> str:
    """How a question names a unit at its end.

    >>> unit_phrase("billion dollars"), unit_phrase("% of GDP"), unit_phrase("million"), unit_phrase("")
    (', in billions of dollars', ', in percent of GDP', ', in millions', '')
    """
    if not unit:
        return ""
    if unit.startswith("%"):
        return f", in percent{unit[1:]}"
    first, _, rest = unit.partition(" ")
    if first in ("thousand", "million", "billion", "trillion"):
        return f", in {first}s of {rest}" if rest else f", in {first}s"
    return f", in {unit}"


def one(figure: Figure) -> str:
    """SQL of one figure's value."""
    return (
        f"(SELECT value FROM facts WHERE entity = {literal(figure.entity)} AND attribute = "
        f"{literal(figure.fact_attribute)} AND period = {literal(figure.period)})"
    )


def of_entities(figures: Sequence[Figure], select: str, more: str = "") -> str:
    """SQL over one attribute and period of several entities: `select` FROM facts WHERE ... `more`."""
    names = ", ".join(literal(figure.entity) for figure in figures)
    return (
        f"(SELECT {select} FROM facts WHERE entity IN ({names}) AND attribute = {literal(figures[0].fact_attribute)} "
        f"AND period = {literal(figures[0].period)}{more})"
    )


def of_years(figures: Sequence[Figure], select: str, more: str = "") -> str:
    """SQL over the years of one entity's attribute."""
    first = figures[0]
    years = ", ".join(str(figure.year) for figure in figures)
    return (
        f"(SELECT {select} FROM facts WHERE entity = {literal(first.entity)} AND attribute = "
        f"{literal(first.fact_attribute)} AND year IN ({years}){more})"
    )


def of_rows(figures: Sequence[Figure], select: str, more: str = "") -> str:
    """SQL over rows of one table's column."""
    names = ", ".join(literal(figure.fact_attribute) for figure in figures)
    return (
        f"(SELECT {select} FROM facts WHERE entity = {literal(figures[0].entity)} AND attribute IN ({names}) "
        f"AND period = {literal(figures[0].period)}{more})"
    )


def measure_phrase(figure: Figure, *, dated: bool = True) -> str:
    """What is measured: 'coastline', 'exports (2024)', '"Net income" (2024)'."""
    name = f'"{figure.attribute}"' if figure.is_cell else figure.attribute
    if not dated or not figure.period:
        return name
    if name.endswith(")") and not figure.is_cell:
        return f"{name[:-1]}, {figure.period})"
    return f"{name} ({figure.period})"


def names_of(figures: Sequence[Figure], last: str = "and") -> str:
    """The entities, listed."""
    return listed([entity_phrase(figure.entity) for figure in figures], last)


def rows_of(figures: Sequence[Figure], last: str = "and") -> str:
    """The rows' names in quotes, listed."""
    return listed([f'"{figure.attribute}"' for figure in figures], last)


def rounded_to(decimals: int) -> str:
    """How a question states a rounding: ", rounded to two decimals"."""
    if decimals == 0:
        return ", rounded to a whole number"
    return f", rounded to {_NUMBERS[decimals]} decimal{'' if decimals == 1 else 's'}"


def number_word(number: int) -> str:
    """3 -> "three"."""
    return _NUMBERS.get(number, str(number))


def ordinal(n: int) -> str:
    """What stands before "largest": "", "second-", ..."""
    return _ORDINALS[n]


def fine_decimals(values: Sequence[Decimal]) -> int:
    """Enough digits for a mean of these values: more where they are small."""
    return 2 if max(map(abs, values)) >= 1 else 4


def threshold_between(values: Sequence[Decimal], chance: Random) -> Decimal | None:
    """A short number strictly between two neighbouring values; None if they are equal or too near each other."""
    ordered = sorted(values)
    cut = chance.randrange(len(ordered) - 1)
    low, high = ordered[cut], ordered[cut + 1]
    if low == high:
        return None
    middle = (low + high) / 2
    for digits in range(1, 12):
        short = Decimal(f"{middle:.{digits}g}")
        if low < short < high:
            return short
    return None


def with_unit(value: Decimal, phrase: str) -> str:
    """A threshold in a sentence: "12 million dollars", "30 percent of GDP", "1,200"; `phrase` is `Asked.phrase`."""
    unit = phrase.removeprefix(", in ").strip()
    for magnitude in ("thousand", "million", "billion", "trillion"):
        unit = unit.replace(f"{magnitude}s of ", f"{magnitude} ").replace(f"{magnitude}s", magnitude)
    number = f"{value:,f}" if value == value.to_integral_value() else plain(value)
    return f"{number.rstrip('.')} {unit}".strip()
