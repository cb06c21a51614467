"""Query families over the years of one series (paper section 3.2, temporal reasoning).

    change, growth, times_as_large, compound_growth, series_mean, series_sum, peak_year, trough_year, largest_step,
    largest_step_year, first_year_above, years_above, moving_average, longest_rise

Growth is asked of positive amounts only; sums over years are not asked of balances at a date.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

from stages.synthesis.numerical_draft import (
    Asked,
    Draft,
    asked_unit,
    fine_decimals,
    of_years,
    one,
    rounded_to,
    threshold_between,
    with_unit,
)
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_pools import Group, Pools, distinct, is_amount, mixed
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
