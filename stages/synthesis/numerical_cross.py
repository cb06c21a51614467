"""Query families over two years of several entities (paper section 3.2, temporal reasoning).

    growth_gap, combined_change, fastest_growth, rising_count, years_ahead

Growth is asked of positive amounts only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from random import Random

from stages.synthesis.corpus_table import literal
from stages.synthesis.numerical_draft import (
    Draft,
    asked_unit,
    names_of,
    of_years,
    one,
    rounded_to,
)
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_pools import Group, Pools, is_amount, rounds
from stages.synthesis.phrasing import entity_phrase


def _crossed(pools: Pools, chance: Random, least: int, *, amounts: bool) -> Iterator[list[tuple[Figure, Figure]]]:
    """Earlier and later figures of several entities, for the same two years."""
    panels = [panel for panel in pools.series_panels if not amounts or all(map(_grows_anywhere, panel))]
    kinds = [[p for p in panels if p[0][0].is_cell == kind] for kind in (False, True)]
    streams = [rounds(kind, chance) for kind in kinds]
    while streams:
        for stream in list(streams):
            panel = next(stream, None)
            if panel is None:
                streams.remove(stream)
                continue
            years = sorted({figure.year or 0 for group in panel for figure in group})
            early, late = sorted(chance.sample(years, 2))
            both = []
            for group in panel:
                by_year = {figure.year: figure for figure in group}
                if early in by_year and late in by_year:
                    both.append((by_year[early], by_year[late]))
            if amounts:
                both = [(a, b) for a, b in both if a.value > 0 and b.value > 0]
            if len(both) >= least:
                most = max(least, pools.max_entities * 2 // 3)
                yield chance.sample(both, min(len(both), chance.randint(least, most)))


def _grows_anywhere(group: Group) -> bool:
    return is_amount(group) and "balance" not in group[0].measure


def _flat(pairs: Sequence[tuple[Figure, Figure]]) -> tuple[Figure, ...]:
    return tuple(figure for pair in pairs for figure in pair)


def _name(figure: Figure) -> str:
    return f'"{figure.attribute}"' if figure.is_cell else figure.attribute


def _growth_sql(pair: tuple[Figure, Figure]) -> str:
    early, late = pair
    return f"({one(late)} - {one(early)}) * 100 / {one(early)}"


def growth_gap(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The difference of two entities' growth rates."""
    for pairs in _crossed(pools, chance, 2, amounts=True):
        (a0, a1), (b0, b1) = pairs[:2]
        if a1.value / a0.value < b1.value / b0.value:
            (a0, a1), (b0, b1) = (b0, b1), (a0, a1)
        if a1.value / a0.value - b1.value / b0.value < Decimal("0.001") or a1.value > 20 * a0.value:
            continue
        question = (
            f"From {a0.year} to {a1.year}, by how many percentage points was the growth rate of the figure for {_name(a0)} "
            f"of {entity_phrase(a0.entity)} above that of {entity_phrase(b0.entity)}{rounded_to(1)}?"
        )
        expression = f"{_growth_sql((a0, a1))} - {_growth_sql((b0, b1))}"
        yield Draft("growth_gap", question, expression, (a0, a1, b0, b1), decimals=1, rounded=True)


def _over(pairs: Sequence[tuple[Figure, Figure]], select: str, more: str = "") -> str:
    """SQL over entities with their `early` and `late` value."""
    first = pairs[0][0]
    names = ", ".join(literal(early.entity) for early, _ in pairs)
    parts = []
    for year, name in ((pairs[0][0].year, "early"), (pairs[0][1].year, "late")):
        parts.append(
            f"(SELECT entity, value AS {name} FROM facts WHERE entity IN ({names}) AND attribute = "
            f"{literal(first.fact_attribute)} AND year = {year}) AS {name}_year"
        )
    return f"(SELECT {select} FROM {parts[0]} JOIN {parts[1]} USING (entity){more})"


def combined_change(pools: Pools, chance: Random) -> Iterator[Draft]:
    """By how much a sum over entities changed."""
    for pairs in _crossed(pools, chance, 2, amounts=True):
        asked = asked_unit(_flat(pairs))
        early, late = pairs[0]
        if sum(a.value for a, _ in pairs) == sum(b.value for _, b in pairs):
            continue
        question = (
            f"By how much did the combined figure for {_name(early)} of {names_of([a for a, _ in pairs])} change from "
            f"{early.year} to {late.year} (later minus earlier){asked.phrase}?"
        )
        expression = _over(pairs, "SUM(late) - SUM(early)")
        yield Draft("combined_change", question, expression, _flat(pairs), asked.factor, asked.decimals)


def fastest_growth(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The highest growth rate among entities."""
    for pairs in _crossed(pools, chance, 3, amounts=True):
        if any(b.value > 6 * a.value for a, b in pairs):
            continue
        early, late = pairs[0]
        question = (
            f"Among {names_of([a for a, _ in pairs])}, what is the highest growth rate of the figure for {_name(early)} from "
            f"{early.year} to {late.year}, in percent{rounded_to(1)} (negative for a fall)?"
        )
        expression = _over(pairs, "MAX((late - early) * 100 / early)")
        yield Draft("fastest_growth", question, expression, _flat(pairs), decimals=1, rounded=True)


def rising_count(pools: Pools, chance: Random) -> Iterator[Draft]:
    """How many entities' figures rose or fell."""
    for pairs in _crossed(pools, chance, 3, amounts=False):
        early, late = pairs[0]
        sign, word = chance.choice([(">", "higher"), ("<", "lower")])
        question = (
            f"For how many of {names_of([a for a, _ in pairs])} is the figure for {_name(early)} {word} in {late.year} than "
            f"in {early.year}?"
        )
        expression = _over(pairs, "COUNT(*)", f" WHERE late {sign} early")
        yield Draft("rising_count", question, expression, _flat(pairs), parameters={"sign": sign})


def years_ahead(pools: Pools, chance: Random) -> Iterator[Draft]:
    """In how many years one entity's figure exceeds another's."""
    for panel in rounds(pools.series_panels, chance):
        a, b = chance.sample(panel, 2)
        others = {figure.year: figure for figure in b}
        both = [(figure, others[figure.year]) for figure in a if figure.year in others]
        if len(both) < 3 or any(x.value == y.value for x, y in both):
            continue
        first, second = both[0]
        years = [figure.year for figure, _ in both]
        question = (
            f"In how many of the years {', '.join(map(str, years[:-1]))} and {years[-1]} was the figure for {_name(first)} of "
            f"{entity_phrase(first.entity)} larger than that of {entity_phrase(second.entity)}?"
        )
        left = of_years([x for x, _ in both], "year, value AS mine")
        right = of_years([y for _, y in both], "year, value AS theirs")
        expression = f"(SELECT COUNT(*) FROM {left} AS a JOIN {right} AS b USING (year) WHERE mine > theirs)"
        yield Draft("years_ahead", question, expression, _flat(both))


CROSS_FAMILIES = {
    "growth_gap": growth_gap,
    "combined_change": combined_change,
    "fastest_growth": fastest_growth,
    "rising_count": rising_count,
    "years_ahead": years_ahead,
}
