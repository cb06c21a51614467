"""Query families that compare the entities of a panel with each other, their sum or their mean (paper section 3.2).

    difference, percentage_points, ratio, percent_larger, share_of_total, gap_to_mean, rank_position

Ratios and shares are asked of amounts only; differences of percentages are percentage points.
"""

from __future__ import annotations

from decimal import Decimal
from random import Random

from stages.synthesis.numerical_draft import (
    Asked,
    Draft,
    fine_decimals,
    measure_phrase,
    names_of,
    of_entities,
    one,
    rounded_to,
)
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_panel_family import PanelFamily, difference_unit, exact
from stages.synthesis.numerical_pools import Group
from stages.synthesis.phrasing import entity_phrase


def _high_low(chosen: Group) -> tuple[Figure, Figure]:
    a, b = chosen[:2]
    return (a, b) if a.value > b.value else (b, a)


def _difference(chosen: Group, asked: Asked, chance: Random) -> Draft:
    high, low = _high_low(chosen)
    what = measure_phrase(high)
    question = chance.choice(
        [
            f"By how much is the figure for {what} of {entity_phrase(high.entity)} larger than that of "
            f"{entity_phrase(low.entity)}{asked.phrase}?",
            f"What is the difference between {names_of([high, low])} in their figures for {what}{asked.phrase}?",
        ]
    )
    return exact("difference", question, f"{one(high)} - {one(low)}", [high, low], asked)


def _percentage_points(chosen: Group, asked: Asked, chance: Random) -> Draft:
    high, low = _high_low(chosen)
    what = measure_phrase(high)
    question = chance.choice(
        [
            f"By how many percentage points does {what} of {entity_phrase(high.entity)} exceed that of "
            f"{entity_phrase(low.entity)}?",
            f"How many percentage points lie between {names_of([low, high])} in {what}?",
        ]
    )
    return exact("percentage_points", question, f"{one(high)} - {one(low)}", [high, low], asked)


def _ratio(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    high, low = _high_low(chosen)
    if low.value <= 0 or high.value > 100 * low.value:
        return None
    what = measure_phrase(high)
    question = chance.choice(
        [
            f"How many times as large is the figure for {what} of {entity_phrase(high.entity)} as that of "
            f"{entity_phrase(low.entity)}{rounded_to(2)}?",
            f"Divide the figure for {what} of {entity_phrase(high.entity)} by that of {entity_phrase(low.entity)}. "
            f"What is the quotient{rounded_to(2)}?",
        ]
    )
    del asked
    return Draft("ratio", question, f"{one(high)} / {one(low)}", (high, low), decimals=2, rounded=True)


def _percent_larger(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    high, low = _high_low(chosen)
    if low.value <= 0 or high.value > 20 * low.value:
        return None
    what = measure_phrase(high)
    down = chance.random() < 0.5
    base, sign = (high, -1) if down else (low, 1)
    first, second = (low, high) if down else (high, low)
    question = (
        f"By what percentage is the figure for {what} of {entity_phrase(first.entity)} "
        f"{'smaller' if down else 'larger'} than that of {entity_phrase(second.entity)}{rounded_to(1)}?"
    )
    del asked, sign
    expression = f"({one(high)} - {one(low)}) * 100 / {one(base)}"
    return Draft(
        "percent_larger", question, expression, (high, low), decimals=1, rounded=True, parameters={"down": down}
    )


def _share_of_total(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    part = chosen[0]
    total = sum(figure.value for figure in chosen)
    if any(figure.value < 0 for figure in chosen) or not total or part.value * 200 < total:
        return None
    listed = chance.sample(chosen, len(chosen))
    what, names = measure_phrase(part), names_of(listed)
    question = chance.choice(
        [
            f"Of the combined figure for {what} of {names}, what percentage is that of {entity_phrase(part.entity)}"
            f"{rounded_to(1)}?",
            f"Together, {names} make up a total for {what}. What share of it, in percent, belongs to "
            f"{entity_phrase(part.entity)}{rounded_to(1)}?",
        ]
    )
    del asked
    expression = f"{one(part)} * 100 / {of_entities(chosen, 'SUM(value)')}"
    return Draft("share_of_total", question, expression, tuple(chosen), decimals=1, rounded=True)


def _gap_to_mean(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    part = chosen[0]
    mean = sum((figure.value for figure in chosen), Decimal(0)) / len(chosen)
    if part.value == mean:
        return None
    above = part.value > mean
    decimals = fine_decimals([figure.value / asked.factor for figure in chosen])
    what, names = measure_phrase(part), names_of(chance.sample(chosen, len(chosen)))
    question = (
        f"How far {'above' if above else 'below'} the mean of the figures for {what} of {names} is that of "
        f"{entity_phrase(part.entity)}{difference_unit(chosen, asked)}{rounded_to(decimals)}?"
    )
    average = of_entities(chosen, "AVG(value)")
    expression = f"({one(part)} - {average})" if above else f"({average} - {one(part)})"
    return Draft("gap_to_mean", question, expression, tuple(chosen), asked.factor, decimals, rounded=True)


def _rank_position(chosen: Group, asked: Asked, chance: Random) -> Draft:
    part = chosen[0]
    what, names = measure_phrase(part), names_of(chance.sample(chosen, len(chosen)))
    question = chance.choice(
        [
            f"Rank {names} by {what} from the largest figure to the smallest. At which position stands "
            f"{entity_phrase(part.entity)} (as a number)?",
            f"If {names} are ordered by {what}, largest first, what is the position of {entity_phrase(part.entity)} "
            "(as a number)?",
        ]
    )
    del asked
    expression = of_entities(chosen, "COUNT(*) + 1", f" AND value > {one(part)}")
    return Draft("rank_position", question, expression, tuple(chosen))


COMPARE_FAMILIES: dict[str, PanelFamily] = {
    "difference": PanelFamily(_difference, 2, 2, amounts=True, distinct=True),
    "percentage_points": PanelFamily(_percentage_points, 2, 2, rates=True, distinct=True),
    "ratio": PanelFamily(_ratio, 2, 2, amounts=True, distinct=True),
    "percent_larger": PanelFamily(_percent_larger, 2, 2, amounts=True, distinct=True),
    "share_of_total": PanelFamily(_share_of_total, 3, amounts=True),
    "gap_to_mean": PanelFamily(_gap_to_mean, 3, distinct=True),
    "rank_position": PanelFamily(_rank_position, 3, distinct=True),
}
