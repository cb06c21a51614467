"""Query families over years (paper section 3.2, temporal reasoning): one series, and several entities' series.

    change, growth, times_as_large, compound_growth, series_mean, series_sum, peak_year, trough_year, largest_step,
    largest_step_year, first_year_above, years_above, moving_average, longest_rise
    growth_gap, combined_change, fastest_growth, rising_count, years_ahead

Growth is asked of positive amounts only; sums over years are not asked of balances at a date.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from random import Random

from stages.synthesis.corpus_table import literal
from stages.synthesis.numerical_draft import (
    Asked,
    Draft,
    asked_unit,
    fine_decimals,
    names_of,
    of_years,
    one,
    rounded_to,
    threshold_between,
    with_unit,
)
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_pools import Group, Pools, distinct, is_amount, mixed, rounds
from stages.synthesis.phrasing import entity_phrase
from stages.synthesis.quantities import plain

Make = Callable[[Group, Asked, Random], Draft | None]

_BALANCE = re.compile(
    r"balance|total|assets|liabilit|equity|inventor|cash|receivable|payable|debt|goodwill|population|reserves|stock|net$"
    r"|accumulated|retained|property|land|buildings|deposits|securities|investments|lease|borrowings|capital",
    re.IGNORECASE,
)


def _what(figure: Figure) -> str:
    name = f'"{figure.attribute}"' if figure.is_cell else figure.attribute
    return f"{name} of {entity_phrase(figure.entity)}"


def _years(group: Sequence[Figure]) -> str:
    return f"{group[0].year} to {group[-1].year}"


def _two(group: Group, chance: Random) -> tuple[Figure, Figure]:
    """An earlier and a later year."""
    first, second = sorted(chance.sample(range(len(group)), 2))
    return group[first], group[second]


def series_family(make: Make, least: int, *, amounts: bool = False) -> Callable[[Pools, Random], Iterator[Draft]]:
    """The stream of a family's drafts; `least` years are needed."""

    def drafts(pools: Pools, chance: Random) -> Iterator[Draft]:
        groups = [group for group in pools.series if len(group) >= least]
        if amounts:
            groups = [group for group in groups if _grows(group)]
        for group in mixed(groups, chance):
            draft = make(group, asked_unit(group), chance)
            if draft is not None:
                yield draft

    return drafts


def _grows(group: Group) -> bool:
    """Amounts above zero; a balance of inflows and outflows has no growth rate even where it is positive."""
    return is_amount(group) and all(figure.value > 0 for figure in group) and "balance" not in group[0].measure


def _points(figure: Figure, asked: Asked) -> str:
    return ", in percentage points" if figure.unit.startswith("%") else asked.phrase


def _change(group: Group, asked: Asked, chance: Random) -> Draft | None:
    early, late = _two(group, chance)
    if early.value == late.value:
        return None
    unit = _points(early, asked)
    question = chance.choice(
        [
            f"By how much did the figure for {_what(late)} change from {early.year} to {late.year} (the later minus the "
            f"earlier figure){unit}?",
            f"What is the figure for {_what(late)} in {late.year} minus that in {early.year}{unit}?",
        ]
    )
    return Draft("change", question, f"{one(late)} - {one(early)}", (early, late), asked.factor, asked.decimals)


def _growth(group: Group, asked: Asked, chance: Random) -> Draft | None:
    early, late = _two(group, chance)
    if early.value == late.value or late.value > 20 * early.value:
        return None
    question = chance.choice(
        [
            f"By what percentage did the figure for {_what(late)} change from {early.year} to {late.year} (negative for a "
            f"fall){rounded_to(1)}?",
            f"What is the growth rate, in percent, of the figure for {_what(late)} between {early.year} and {late.year}"
            f"{rounded_to(1)} (negative for a fall)?",
        ]
    )
    del asked
    expression = f"({one(late)} - {one(early)}) * 100 / {one(early)}"
    return Draft("growth", question, expression, (early, late), decimals=1, rounded=True)


def _times(group: Group, asked: Asked, chance: Random) -> Draft | None:
    early, late = _two(group, chance)
    if early.value == late.value or late.value > 50 * early.value or early.value > 10 * late.value:
        return None
    del asked
    question = f"How many times its {early.year} figure is the {late.year} figure for {_what(late)}{rounded_to(2)}?"
    return Draft("times_as_large", question, f"{one(late)} / {one(early)}", (early, late), decimals=2, rounded=True)


def _compound(group: Group, asked: Asked, chance: Random) -> Draft | None:
    early, late = group[0], group[-1]
    years = (late.year or 0) - (early.year or 0)
    if years < 2 or early.value == late.value:
        return None
    del asked, chance
    question = (
        f"What is the compound annual growth rate of the figure for {_what(late)} from {early.year} to {late.year}, in "
        f"percent{rounded_to(1)}?"
    )
    expression = f"(POWER({one(late)} / {one(early)}, 1.0 / {years}) - 1) * 100"
    return Draft(
        "compound_growth", question, expression, (early, late), decimals=1, rounded=True, parameters={"n": years}
    )


def _series_mean(group: Group, asked: Asked, chance: Random) -> Draft:
    decimals = fine_decimals([figure.value / asked.factor for figure in group])
    end = f"{asked.phrase}{rounded_to(decimals)}"
    years = ", ".join(str(figure.year) for figure in group[:-1])
    question = chance.choice(
        [
            f"What is the mean of the figures for {_what(group[0])} of the years {years} and {group[-1].year}{end}?",
            f"Averaged over {years} and {group[-1].year}, what is the figure for {_what(group[0])}{end}?",
        ]
    )
    expression = of_years(group, "AVG(value)")
    return Draft("series_mean", question, expression, tuple(group), asked.factor, decimals, rounded=True)


def _series_sum(group: Group, asked: Asked, chance: Random) -> Draft | None:
    if _BALANCE.search(group[0].attribute):
        return None
    years = ", ".join(str(figure.year) for figure in group[:-1])
    question = chance.choice(
        [
            f"What do the figures for {_what(group[0])} of {years} and {group[-1].year} add up to{asked.phrase}?",
            f"What is the cumulative figure for {_what(group[0])} over {years} and {group[-1].year}{asked.phrase}?",
        ]
    )
    return Draft("series_sum", question, of_years(group, "SUM(value)"), tuple(group), asked.factor, asked.decimals)


def _extreme_year(name: str, order: str, word: str) -> Make:
    def make(group: Group, asked: Asked, chance: Random) -> Draft | None:
        if not distinct(group):
            return None
        del asked
        question = chance.choice(
            [
                f"In which year, from {_years(group)}, was the figure for {_what(group[0])} {word}?",
                f"Look at the figures for {_what(group[0])} from {_years(group)}: in which year do they reach their "
                f"{'maximum' if order == 'DESC' else 'minimum'}?",
            ]
        )
        expression = of_years(group, "year", f" ORDER BY value {order} LIMIT 1")
        return Draft(name, question, expression, tuple(group))

    return make


def _steps(group: Group, select: str, more: str) -> str:
    lag = of_years(group, "year, value, LAG(value) OVER (ORDER BY year) AS earlier")
    return f"(SELECT {select} FROM {lag} WHERE earlier IS NOT NULL{more})"


def _consecutive(group: Group) -> bool:
    return (group[-1].year or 0) - (group[0].year or 0) == len(group) - 1


def _largest_step(group: Group, asked: Asked, chance: Random) -> Draft | None:
    steps = [abs(b.value - a.value) for a, b in itertools.pairwise(group)]
    if not _consecutive(group) or len(set(steps)) < len(steps):
        return None
    if chance.random() < 0.5:
        question = (
            f"From {_years(group)}, what is the largest change of the figure for {_what(group[0])} from one year to the "
            f"next (rise or fall, as a positive number){_points(group[0], asked)}?"
        )
        expression = _steps(group, "MAX(ABS(value - earlier))", "")
        return Draft("largest_step", question, expression, tuple(group), asked.factor, asked.decimals)
    question = (
        f"Between {group[0].year} and {group[-1].year} the figure for {_what(group[0])} changes every year. In which year "
        "is its change against the year before (rise or fall) the largest?"
    )
    if not all(steps):
        return None
    expression = _steps(group, "year", " ORDER BY ABS(value - earlier) DESC LIMIT 1")
    return Draft("largest_step_year", question, expression, tuple(group))


def _named(make: Make, name: str) -> Make:
    """Only the drafts of one name, of a function that makes two families."""

    def filtered(group: Group, asked: Asked, chance: Random) -> Draft | None:
        draft = make(group, asked, chance)
        return draft if draft is not None and draft.family == name else None

    return filtered


def _first_year_above(group: Group, asked: Asked, chance: Random) -> Draft | None:
    limit = threshold_between([figure.value / asked.factor for figure in group], chance)
    if limit is None:
        return None
    bound = limit * asked.factor
    question = (
        f"Going from {_years(group)}, which is the first year in which the figure for {_what(group[0])} is above "
        f"{with_unit(limit, asked.phrase)}?"
    )
    expression = of_years(group, "MIN(year)", f" AND value > {plain(bound)}")
    return Draft("first_year_above", question, expression, tuple(group), parameters={"bound": bound})


def _years_above(group: Group, asked: Asked, chance: Random) -> Draft | None:
    limit = threshold_between([figure.value / asked.factor for figure in group], chance)
    if limit is None:
        return None
    bound = limit * asked.factor
    years = ", ".join(str(figure.year) for figure in group[:-1])
    question = (
        f"In how many of the years {years} and {group[-1].year} was the figure for {_what(group[0])} above "
        f"{with_unit(limit, asked.phrase)}?"
    )
    expression = of_years(group, "COUNT(*)", f" AND value > {plain(bound)}")
    return Draft("years_above", question, expression, tuple(group), parameters={"bound": bound})


def _moving_average(group: Group, asked: Asked, chance: Random) -> Draft | None:
    if not _consecutive(group):
        return None
    start = chance.randrange(len(group) - 1)
    window = group[start : start + 2]
    decimals = fine_decimals([figure.value / asked.factor for figure in window])
    question = (
        f"What is the two-year moving average of the figure for {_what(group[0])} at {window[1].year} (the mean of "
        f"{window[0].year} and {window[1].year}){asked.phrase}{rounded_to(decimals)}?"
    )
    expression = of_years(window, "AVG(value)")
    return Draft("moving_average", question, expression, tuple(window), asked.factor, decimals, rounded=True)


def _longest_rise(group: Group, asked: Asked, chance: Random) -> Draft | None:
    if not _consecutive(group):
        return None
    del asked, chance
    question = (
        f"Over the years {_years(group)}, what is the longest run of consecutive yearly rises of the figure for "
        f"{_what(group[0])}? Give the number of rises."
    )
    # Gaps and islands: rises that follow each other have the same number of non-rises before them.
    lag = of_years(group, "year, value, LAG(value) OVER (ORDER BY year) AS earlier")
    marked = f"(SELECT year, CASE WHEN value > earlier THEN 1 ELSE 0 END AS rise FROM {lag} WHERE earlier IS NOT NULL)"
    runs = f"(SELECT rise, SUM(1 - rise) OVER (ORDER BY year) AS run FROM {marked})"
    lengths = f"(SELECT SUM(rise) AS length FROM {runs} GROUP BY run)"
    return Draft("longest_rise", question, f"(SELECT MAX(length) FROM {lengths})", tuple(group))


SERIES_FAMILIES = {
    "change": series_family(_change, 2),
    "growth": series_family(_growth, 2, amounts=True),
    "times_as_large": series_family(_times, 2, amounts=True),
    "compound_growth": series_family(_compound, 3, amounts=True),
    "series_mean": series_family(_series_mean, 3),
    "series_sum": series_family(_series_sum, 3, amounts=True),
    "peak_year": series_family(_extreme_year("peak_year", "DESC", "highest"), 3),
    "trough_year": series_family(_extreme_year("trough_year", "ASC", "lowest"), 3),
    "largest_step": series_family(_named(_largest_step, "largest_step"), 3),
    "largest_step_year": series_family(_named(_largest_step, "largest_step_year"), 3),
    "first_year_above": series_family(_first_year_above, 3),
    "years_above": series_family(_years_above, 3),
    "moving_average": series_family(_moving_average, 3),
    "longest_rise": series_family(_longest_rise, 3),
}


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
