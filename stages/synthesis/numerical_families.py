"""Computed numerical questions: each family draws facts that can be compared and writes a sentence and an SQL query.

Entities are compared only in one unit. Sums and ratios are asked of amounts, not of rates ("% of GDP", "per 1,000").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from stages.synthesis.corpus_table import literal
from stages.synthesis.facts import Fact
from stages.synthesis.phrasing import attribute_phrase, entity_phrase, in_unit, listed, scale_note, table_cell
from stages.synthesis.quantities import plain

ROUNDS = 40  # draws per attribute at most
RATIO_DECIMALS = 2
MAX_ENTITIES = 4


@dataclass(frozen=True)
class Draft:
    """A question before its SQL is executed; `facts` are the rows that the SQL reads."""

    family: str
    question: str
    sql: str
    facts: tuple[Fact, ...]


def comparable(facts: Sequence[Fact], least: int) -> list[list[Fact]]:
    """Facts under headings with one attribute, period and unit, one per entity; groups of at least `least`."""
    groups: defaultdict[tuple[str, str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.source == "heading" and fact.quantity is not None:
            groups[(fact.attribute, fact.period, fact.quantity.unit)].append(fact)
    return [group for group in groups.values() if len(group) >= least]


def is_amount(group: Sequence[Fact]) -> bool:
    """True if values can be added up: not a rate, a ratio, an age or a rank."""
    quantity = group[0].quantity
    assert quantity is not None
    text = f"{quantity.unit} {group[0].attribute}".casefold()
    rates = ("%", "/", "per ", "year", "percent", "rate", "index", "average", "mean ", "median", "elevation")
    if any(word in text for word in rates):
        return False
    return bool(quantity.unit) or all(_value(fact) == _value(fact).to_integral_value() for fact in group)


def _value(fact: Fact) -> Decimal:
    assert fact.quantity is not None
    return fact.quantity.value


def _draws(groups: list[list[Fact]], sizes: Sequence[int], chance: Random) -> Iterator[list[Fact]]:
    """Random subsets: one of every group, then again, so that attributes are spread."""
    order = list(groups)
    chance.shuffle(order)
    for _ in range(ROUNDS):
        for group in order:
            size = chance.choice(sizes)
            if len(group) >= size:
                yield chance.sample(group, size)


def _where(facts: Sequence[Fact]) -> str:
    names = ", ".join(literal(fact.entity) for fact in facts)
    return (
        f"FROM facts WHERE entity IN ({names}) AND attribute = {literal(facts[0].attribute)} "
        f"AND period = {literal(facts[0].period)}"
    )


def _one(fact: Fact) -> str:
    return (
        f"(SELECT value FROM facts WHERE entity = {literal(fact.entity)} AND attribute = {literal(fact.attribute)} "
        f"AND period = {literal(fact.period)})"
    )


def _unit(fact: Fact) -> str:
    assert fact.quantity is not None
    return in_unit(fact.quantity.unit)


def _names(facts: Sequence[Fact], last: str = "and") -> str:
    return listed([entity_phrase(fact.entity) for fact in facts], last)


def sums(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """The sum of two entities' amounts."""
    groups = [group for group in comparable(facts, 2) if is_amount(group)]
    for a, b in _draws(groups, (2,), chance):
        question = f"What do the figures for {attribute_phrase(a)} of {_names([a, b])} add up to{_unit(a)}?"
        yield Draft("sum", question, f"SELECT SUM(value) {_where([a, b])}", (a, b))


def differences(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """How much larger one entity's value is."""
    for a, b in _draws(comparable(facts, 2), (2,), chance):
        if _value(a) == _value(b):
            continue
        high, low = (a, b) if _value(a) > _value(b) else (b, a)
        question = (
            f"By how much is the figure for {attribute_phrase(a)} of {entity_phrase(high.entity)} larger than that of "
            f"{entity_phrase(low.entity)}{_unit(a)}?"
        )
        yield Draft("difference", question, f"SELECT {_one(high)} - {_one(low)}", (high, low))


def ratios(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """How many times as large, rounded."""
    groups = [group for group in comparable(facts, 2) if is_amount(group)]
    for a, b in _draws(groups, (2,), chance):
        high, low = (a, b) if _value(a) > _value(b) else (b, a)
        if _value(low) <= 0 or _value(high) > 100 * _value(low):
            continue
        question = (
            f"How many times as large is the figure for {attribute_phrase(a)} of {entity_phrase(high.entity)} as that "
            f"of {entity_phrase(low.entity)}, rounded to {RATIO_DECIMALS} decimals?"
        )
        # Exact decimals on both sides; DuckDB divides them as doubles.
        yield Draft("ratio", question, f"SELECT ROUND({_one(high)} / {_one(low)}, {RATIO_DECIMALS})", (high, low))


def largest(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """The largest value among named entities."""
    for chosen in _draws(comparable(facts, 3), (3,), chance):
        if len({_value(fact) for fact in chosen}) < len(chosen):
            continue
        question = (
            f"What is the largest figure for {attribute_phrase(chosen[0])} among {_names(chosen)}{_unit(chosen[0])}?"
        )
        yield Draft("largest", question, f"SELECT MAX(value) {_where(chosen)}", tuple(chosen))


def which_largest(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """The entity with the largest or smallest value among named ones."""
    for chosen in _draws(comparable(facts, 3), (2, 3), chance):
        if len({_value(fact) for fact in chosen}) < len(chosen):
            continue
        name, order = chance.choice([("largest", "DESC"), ("smallest", "ASC")])
        word = name if len(chosen) > 2 else {"largest": "larger", "smallest": "smaller"}[name]
        question = f"Which of {_names(chosen)} has the {word} figure for {attribute_phrase(chosen[0])}?"
        sql = f"SELECT entity {_where(chosen)} ORDER BY value {order} LIMIT 1"
        yield Draft(f"which_{name}", question, sql, tuple(chosen))


def counts(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """How many of the named entities lie above a threshold."""
    for chosen in _draws(comparable(facts, MAX_ENTITIES), (3, MAX_ENTITIES), chance):
        threshold = _threshold(sorted(_value(fact) for fact in chosen), chance)
        if threshold is None:
            continue
        quantity = chosen[0].quantity
        assert quantity is not None
        unit = quantity.unit if quantity.unit.startswith("%") else f" {quantity.unit}"
        question = (
            f"Of {_names(chosen)}, how many have a figure for {attribute_phrase(chosen[0])} above "
            f"{plain(threshold)}{unit.rstrip()}?"
        )
        sql = f"SELECT COUNT(*) {_where(chosen)} AND value > {plain(threshold)}"
        yield Draft("count", question, sql, tuple(chosen))


def _threshold(values: list[Decimal], chance: Random) -> Decimal | None:
    """A short number strictly between two neighbouring values, or None if they are equal."""
    cut = chance.randrange(len(values) - 1)
    low, high = values[cut], values[cut + 1]
    if low == high:
        return None
    middle = (low + high) / 2
    for digits in range(1, 12):
        short = Decimal(f"{middle:.{digits}g}")
        if low < short < high:
            return short
    return None


def changes(facts: Sequence[Fact], chance: Random) -> Iterator[Draft]:
    """The later year's value minus the earlier one's: of a heading with years, or of a table's columns."""
    series: defaultdict[tuple[str, ...], list[Fact]] = defaultdict(list)
    for fact in facts:
        if year_of(fact) is not None:
            series[_series(fact)].append(fact)
    pairs = [group for group in series.values() if len(group) > 1]
    chance.shuffle(pairs)
    tables = [group for group in pairs if group[0].source == "table"]
    headings = [group for group in pairs if group[0].source == "heading"]
    for group in _alternate(tables, headings):
        early, late = sorted(chance.sample(group, 2), key=lambda fact: year_of(fact) or 0)
        if year_of(early) == year_of(late):
            continue
        yield Draft("change", _change_question(late, early), f"SELECT {_one(late)} - {_one(early)}", (late, early))


def _series(fact: Fact) -> tuple[str, ...]:
    """What two values of different years share: attribute and unit, or the row of one table and the column's words."""
    assert fact.quantity is not None
    if fact.source == "heading":
        return (fact.document_id, fact.attribute, fact.quantity.unit)
    words = "".join(character for character in fact.period if character.isalpha() or character == "%")
    return (fact.document_id, fact.group, words, "%" if fact.quantity.unit.startswith("%") else "")


def _change_question(late: Fact, early: Fact) -> str:
    minus = "the later minus the earlier figure"
    if late.source == "table":
        return (
            f"{late.entity}: what is the number in {table_cell(late)} minus the number in the same row, "
            f'column "{early.period}", as printed{scale_note(late)}?'
        )
    return (
        f"By how much did the figure for {late.attribute} of {entity_phrase(late.entity)} change from {early.period} "
        f"to {late.period} ({minus}){_unit(late)}?"
    )


def year_of(fact: Fact) -> int | None:
    """The year of a fact's period: "2024", "September 28, 2024"; None if it has none or several."""
    words = fact.period.replace(",", " ").split()
    years = [int(word) for word in words if len(word) == 4 and word.isdigit() and 1900 <= int(word) <= 2100]
    return years[0] if len(years) == 1 and len(words) <= 6 else None


def _alternate(first: list[list[Fact]], second: list[list[Fact]]) -> Iterator[list[Fact]]:
    for index in range(max(len(first), len(second))):
        if index < len(first):
            yield first[index]
        if index < len(second):
            yield second[index]


FAMILIES: dict[str, Callable[[Sequence[Fact], Random], Iterator[Draft]]] = {
    "sum": sums,
    "difference": differences,
    "ratio": ratios,
    "largest": largest,
    "which_largest": which_largest,
    "count": counts,
    "change": changes,
}
