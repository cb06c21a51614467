"""Query families over a panel: one measure of several entities, each in another document (paper section 3.2).

    sum, mean, median, spread, largest, smallest, nth_largest, sum_of_top, count_above, count_between, sum_above, mean_above

Entities are listed in the question, so it has one answer whatever other documents say. Sums are asked of amounts only.
"""

from __future__ import annotations

from random import Random

from stages.synthesis.numerical_draft import (
    Asked,
    Draft,
    fine_decimals,
    measure_phrase,
    names_of,
    number_word,
    of_entities,
    ordinal,
    rounded_to,
    threshold_between,
    with_unit,
)
from stages.synthesis.numerical_panel_family import Make, PanelFamily, difference_unit, exact
from stages.synthesis.numerical_pools import Group
from stages.synthesis.quantities import plain


def _sum(chosen: Group, asked: Asked, chance: Random) -> Draft:
    what, names, unit = measure_phrase(chosen[0]), names_of(chosen), asked.phrase
    question = chance.choice(
        [
            f"What do the figures for {what} of {names} add up to{unit}?",
            f"What is the combined figure for {what} of {names}{unit}?",
            f"Add up the figures for {what} of {names}. What is the sum{unit}?",
        ]
    )
    return exact("sum", question, of_entities(chosen, "SUM(value)"), chosen, asked)


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
    return exact("median", question, of_entities(chosen, "MEDIAN(value)"), chosen, asked)


def _spread(chosen: Group, asked: Asked, chance: Random) -> Draft:
    what, names, unit = measure_phrase(chosen[0]), names_of(chosen), difference_unit(chosen, asked)
    question = chance.choice(
        [
            f"Among {names}, how far apart are the highest and the lowest figure for {what}{unit}?",
            f"What is the range (largest minus smallest) of the figures for {what} of {names}{unit}?",
        ]
    )
    return exact("spread", question, of_entities(chosen, "MAX(value) - MIN(value)"), chosen, asked)


def _extreme(name: str, function: str) -> Make:
    def make(chosen: Group, asked: Asked, chance: Random) -> Draft:
        what, names = measure_phrase(chosen[0]), names_of(chosen)
        question = chance.choice(
            [
                f"What is the {name} figure for {what} among {names}{asked.phrase}?",
                f"Compare {names}: what is the {name} of their figures for {what}{asked.phrase}?",
            ]
        )
        return exact(name, question, of_entities(chosen, f"{function}(value)"), chosen, asked)

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
    return exact("nth_largest", question, expression, chosen, asked, n=n, descending=order == "DESC")


def _sum_of_top(chosen: Group, asked: Asked, chance: Random) -> Draft:
    n = chance.randint(2, min(3, len(chosen) - 2))
    what, names = measure_phrase(chosen[0]), names_of(chosen)
    question = f"Among {names}, what do the {number_word(n)} largest figures for {what} add up to{asked.phrase}?"
    top = of_entities(chosen, "value", f" ORDER BY value DESC LIMIT {n}")
    return exact("sum_of_top", question, f"(SELECT SUM(value) FROM {top})", chosen, asked, n=n)


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
            return exact(name, question, expression, chosen, asked, **parameters)
        decimals = fine_decimals(values)
        question = (
            f"Among {names}, take those whose figure for {what} is {word} {said}. What is the mean of their figures"
            f"{asked.phrase}{rounded_to(decimals)}?"
        )
        return Draft(name, question, expression, tuple(chosen), asked.factor, decimals, True, parameters)

    return make


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
}
