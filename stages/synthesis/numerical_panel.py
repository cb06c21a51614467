"""Query families over a panel: one measure of several entities, each in another document (paper section 3.2).

    sum, mean, median, spread, largest, smallest, nth_largest, sum_of_top, count_above, count_between, sum_above, mean_above,
    difference, percentage_points, ratio, percent_larger, share_of_total, gap_to_mean, rank_position

Entities are listed in the question, so it has one answer whatever other documents say. Sums, ratios and shares are asked of
amounts only; differences of percentages are percentage points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from stages.synthesis.numerical_draft import (
    Asked,
    Draft,
    asked_unit,
    fine_decimals,
    measure_phrase,
    names_of,
    number_word,
    of_entities,
    one,
    ordinal,
    rounded_to,
    threshold_between,
    with_unit,
)
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_pools import Group, Pools, distinct, drawn, is_amount, is_rate, mixed
from stages.synthesis.phrasing import entity_phrase
from stages.synthesis.quantities import plain

Make = Callable[[Group, Asked, Random], Draft | None]


@dataclass(frozen=True)
class PanelFamily:
    """How many entities it needs (at least, at most), and of what."""

    make: Make
    least: int
    most: int = 99
    amounts: bool = False
    rates: bool = False
    distinct: bool = False


def panel_family(family: PanelFamily) -> Callable[[Pools, Random], Iterator[Draft]]:
    """The stream of a family's drafts."""

    def drafts(pools: Pools, chance: Random) -> Iterator[Draft]:
        groups = [group for group in pools.panels if len(group) >= family.least]
        if family.amounts:
            groups = [group for group in groups if is_amount(group)]
        if family.rates:
            groups = [group for group in groups if is_rate(group)]
        for group in mixed(groups, chance):
            chosen = drawn(group, family.least, min(family.most, pools.max_entities), chance)
            if chosen is None or (family.distinct and not distinct(chosen)):
                continue
            draft = family.make(chosen, asked_unit(chosen), chance)
            if draft is not None:
                yield draft

    return drafts


def _exact(name: str, question: str, expression: str, chosen: Group, asked: Asked, **parameters: object) -> Draft:
    return Draft(name, question, expression, tuple(chosen), asked.factor, asked.decimals, parameters=parameters)


def _sum(chosen: Group, asked: Asked, chance: Random) -> Draft:
    what, names, unit = measure_phrase(chosen[0]), names_of(chosen), asked.phrase
    question = chance.choice(
        [
            f"What do the figures for {what} of {names} add up to{unit}?",
            f"What is the combined figure for {what} of {names}{unit}?",
            f"Add up the figures for {what} of {names}. What is the sum{unit}?",
        ]
    )
    return _exact("sum", question, of_entities(chosen, "SUM(value)"), chosen, asked)


def _mean(chosen: Group, asked: Asked, chance: Random) -> Draft:
    decimals = fine_decimals([figure.value / asked.factor for figure in chosen])
    what, names, end = measure_phrase(chosen[0]), names_of(chosen), f"{asked.phrase}{rounded_to(decimals)}"
    question = chance.choice(
        [
            f"What is the mean of the figures for {what} of {names}{end}?",
            f"Averaged over {names}, what is the figure for {what}{end}?",
            f"Take {names}: what is their unweighted average for {what}{end}?",
        ]
    )
    expression = of_entities(chosen, "AVG(value)")
    return Draft("mean", question, expression, tuple(chosen), asked.factor, decimals, rounded=True)


def _median(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    if len(chosen) % 2 == 0:
        return None  # the middle one of an odd number needs no rounding
    what, names = measure_phrase(chosen[0]), names_of(chosen)
    question = chance.choice(
        [
            f"What is the median of the figures for {what} of {names}{asked.phrase}?",
            f"Order {names} by their figures for {what}. What is the middle one's figure{asked.phrase}?",
        ]
    )
    return _exact("median", question, of_entities(chosen, "MEDIAN(value)"), chosen, asked)


def _spread(chosen: Group, asked: Asked, chance: Random) -> Draft:
    what, names, unit = measure_phrase(chosen[0]), names_of(chosen), _points(chosen, asked)
    question = chance.choice(
        [
            f"Among {names}, how far apart are the highest and the lowest figure for {what}{unit}?",
            f"What is the range (largest minus smallest) of the figures for {what} of {names}{unit}?",
        ]
    )
    return _exact("spread", question, of_entities(chosen, "MAX(value) - MIN(value)"), chosen, asked)


def _extreme(name: str, function: str) -> Make:
    def make(chosen: Group, asked: Asked, chance: Random) -> Draft:
        what, names = measure_phrase(chosen[0]), names_of(chosen)
        question = chance.choice(
            [
                f"What is the {name} figure for {what} among {names}{asked.phrase}?",
                f"Compare {names}: what is the {name} of their figures for {what}{asked.phrase}?",
            ]
        )
        return _exact(name, question, of_entities(chosen, f"{function}(value)"), chosen, asked)

    return make


def _nth_largest(chosen: Group, asked: Asked, chance: Random) -> Draft:
    n = chance.randint(2, min(4, len(chosen) - 1))
    order, name = chance.choice([("DESC", "largest"), ("ASC", "smallest")])
    what, names = measure_phrase(chosen[0]), names_of(chosen)
    question = chance.choice(
        [
            f"What is the {ordinal(n)}{name} figure for {what} among {names}{asked.phrase}?",
            f"Rank {names} by {what}. What is the {ordinal(n)}{name} figure{asked.phrase}?",
        ]
    )
    expression = of_entities(chosen, "value", f" ORDER BY value {order} LIMIT 1 OFFSET {n - 1}")
    return _exact("nth_largest", question, expression, chosen, asked, n=n, descending=order == "DESC")


def _sum_of_top(chosen: Group, asked: Asked, chance: Random) -> Draft:
    n = chance.randint(2, min(3, len(chosen) - 2))
    what, names = measure_phrase(chosen[0]), names_of(chosen)
    question = f"Among {names}, what do the {number_word(n)} largest figures for {what} add up to{asked.phrase}?"
    top = of_entities(chosen, "value", f" ORDER BY value DESC LIMIT {n}")
    return _exact("sum_of_top", question, f"(SELECT SUM(value) FROM {top})", chosen, asked, n=n)


def _count_above(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    limit = threshold_between([figure.value / asked.factor for figure in chosen], chance)
    if limit is None:
        return None
    sign, word = chance.choice([(">", "above"), ("<", "below")])
    what, names, said = measure_phrase(chosen[0]), names_of(chosen), with_unit(limit, asked.phrase)
    question = chance.choice(
        [
            f"Of {names}, how many have a figure for {what} {word} {said}?",
            f"How many of the following have a figure for {what} {word} {said}: {names}?",
        ]
    )
    bound = limit * asked.factor
    expression = of_entities(chosen, "COUNT(*)", f" AND value {sign} {plain(bound)}")
    return Draft("count_above", question, expression, tuple(chosen), parameters={"sign": sign, "bound": bound})


def _count_between(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
    values = [figure.value / asked.factor for figure in chosen]
    limits = sorted({limit for _ in range(2) if (limit := threshold_between(values, chance)) is not None})
    if len(limits) < 2:
        return None
    low, high = limits
    what, names = measure_phrase(chosen[0]), names_of(chosen)
    question = (
        f"Of {names}, how many have a figure for {what} between {plain(low)} and {with_unit(high, asked.phrase)}?"
    )
    bounds = (low * asked.factor, high * asked.factor)
    expression = of_entities(chosen, "COUNT(*)", f" AND value BETWEEN {plain(bounds[0])} AND {plain(bounds[1])}")
    return Draft("count_between", question, expression, tuple(chosen), parameters={"bounds": bounds})


def _filtered(name: str, function: str) -> Make:
    def make(chosen: Group, asked: Asked, chance: Random) -> Draft | None:
        values = [figure.value / asked.factor for figure in chosen]
        limit = threshold_between(values, chance)
        sign, word = chance.choice([(">", "above"), ("<", "below")])
        if limit is None or sum((value > limit) == (sign == ">") for value in values) < 2:
            return None
        what, names = measure_phrase(chosen[0]), names_of(chosen)
        said = with_unit(limit, asked.phrase)
        bound = limit * asked.factor
        expression = of_entities(chosen, f"{function}(value)", f" AND value {sign} {plain(bound)}")
        parameters = {"sign": sign, "bound": bound}
        if function == "SUM":
            question = (
                f"Consider {names}. Add up the figures for {what} of those whose figure is {word} {said}. "
                f"What is the sum{asked.phrase}?"
            )
            return _exact(name, question, expression, chosen, asked, **parameters)
        decimals = fine_decimals(values)
        question = (
            f"Among {names}, take those whose figure for {what} is {word} {said}. What is the mean of their figures"
            f"{asked.phrase}{rounded_to(decimals)}?"
        )
        return Draft(name, question, expression, tuple(chosen), asked.factor, decimals, True, parameters)

    return make


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
    return _exact("difference", question, f"{one(high)} - {one(low)}", [high, low], asked)


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
    return _exact("percentage_points", question, f"{one(high)} - {one(low)}", [high, low], asked)


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
        f"{entity_phrase(part.entity)}{_points(chosen, asked)}{rounded_to(decimals)}?"
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


def _points(chosen: Group, asked: Asked) -> str:
    """The unit of a difference."""
    return ", in percentage points" if chosen[0].unit.startswith("%") else asked.phrase


PANEL_FAMILIES: dict[str, PanelFamily] = {
    "sum": PanelFamily(_sum, 2, amounts=True),
    "mean": PanelFamily(_mean, 3),
    "median": PanelFamily(_median, 3, distinct=True),
    "spread": PanelFamily(_spread, 3, distinct=True),
    "largest": PanelFamily(_extreme("largest", "MAX"), 3, distinct=True),
    "smallest": PanelFamily(_extreme("smallest", "MIN"), 3, distinct=True),
    "nth_largest": PanelFamily(_nth_largest, 3, distinct=True),
    "sum_of_top": PanelFamily(_sum_of_top, 4, amounts=True, distinct=True),
    "count_above": PanelFamily(_count_above, 3),
    "count_between": PanelFamily(_count_between, 4, distinct=True),
    "sum_above": PanelFamily(_filtered("sum_above", "SUM"), 4, amounts=True, distinct=True),
    "mean_above": PanelFamily(_filtered("mean_above", "AVG"), 4, distinct=True),
    "difference": PanelFamily(_difference, 2, 2, amounts=True, distinct=True),
    "percentage_points": PanelFamily(_percentage_points, 2, 2, rates=True, distinct=True),
    "ratio": PanelFamily(_ratio, 2, 2, amounts=True, distinct=True),
    "percent_larger": PanelFamily(_percent_larger, 2, 2, amounts=True, distinct=True),
    "share_of_total": PanelFamily(_share_of_total, 3, amounts=True),
    "gap_to_mean": PanelFamily(_gap_to_mean, 3, distinct=True),
    "rank_position": PanelFamily(_rank_position, 3, distinct=True),
}
