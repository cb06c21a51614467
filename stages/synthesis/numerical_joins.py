"""Query families that join two measures of the same entities (paper section 3.2).

other_of_largest   the entity with the largest A: what is its B?
other_of_nth       the same for the second or third largest
sum_where          B added up over the entities whose A lies above a threshold
count_where        how many lie above one threshold and below another
part_of            A as a percentage of B, of one entity
difference_of      A minus B, of one entity
largest_part       the largest A as a percentage of B among entities
weighted_mean      the mean of a rate weighted by an amount
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from random import Random

from stages.synthesis.numerical_draft import (
    Draft,
    asked_unit,
    measure_phrase,
    names_of,
    of_entities,
    one,
    ordinal,
    rounded_to,
    threshold_between,
    with_unit,
)
from stages.synthesis.numerical_pools import Group, Pools, distinct, is_amount, is_rate, rounds
from stages.synthesis.phrasing import entity_phrase
from stages.synthesis.quantities import plain

Pair = tuple[Group, Group]

_SIZE = re.compile(
    r"^(?:population|labor force|area|real gdp|budget|electricity)\b", re.IGNORECASE
)  # what one weights by


def joined_panels(pools: Pools, chance: Random, least: int) -> Iterator[Pair]:
    """Two panels of one kind, cut to the same entities in the same order; those of one topic come first."""
    kinds = [[p for p in pools.panels if not p[0].is_cell], [p for p in pools.panels if p[0].is_cell]]
    streams = [rounds(kind, chance) for kind in kinds]
    while streams:
        for stream, kind in zip(list(streams), list(kinds), strict=True):
            first = next(stream, None)
            if first is None:
                kinds.remove(kind)
                streams.remove(stream)
                continue
            second = chance.choice(kind)
            if second[0].is_cell and second[0].period != first[0].period:
                same = [panel for panel in kind if panel[0].period == first[0].period]
                second = chance.choice(same)
            if second[0].measure == first[0].measure:
                continue
            pair = _cut(first, second, least, pools.max_entities, chance)
            if pair is not None:
                yield pair


def _cut(first: Group, second: Group, least: int, most: int, chance: Random) -> Pair | None:
    others = {figure.entity: figure for figure in second}
    both = [figure for figure in first if figure.entity in others]
    if len(both) < least:
        return None
    # Two figures of each entity are read, so half as many entities.
    chosen = chance.sample(both, min(len(both), chance.randint(least, max(least, most * 2 // 3))))
    return chosen, [others[figure.entity] for figure in chosen]


def other_of_nth(pools: Pools, chance: Random) -> Iterator[Draft]:
    """Argmax (or the second, third largest, or smallest), then another measure of that entity."""
    for first, second in joined_panels(pools, chance, 3):
        if not distinct(first):
            continue
        n = chance.choice([1, 1, 2])
        order, word = chance.choice([("DESC", "largest"), ("ASC", "smallest")])
        asked = asked_unit(second)
        a, b, names = measure_phrase(first[0]), measure_phrase(second[0]), names_of(first)
        question = chance.choice(
            [
                f"Among {names}, take the one with the {ordinal(n)}{word} figure for {a}. What is its figure for {b}"
                f"{asked.phrase}?",
                f"One of {names} has the {ordinal(n)}{word} figure for {a}. What is the figure for {b} there"
                f"{asked.phrase}?",
            ]
        )
        chosen = of_entities(first, "entity", f" ORDER BY value {order} LIMIT 1 OFFSET {n - 1}")
        expression = of_entities(second, "value", f" AND entity = {chosen}")
        yield Draft(
            "other_of_largest" if n == 1 else "other_of_nth",
            question,
            expression,
            (*first, *second),
            asked.factor,
            asked.decimals,
            parameters={"n": n, "descending": order == "DESC"},
        )


def other_of_largest(pools: Pools, chance: Random) -> Iterator[Draft]:
    """`other_of_nth` with n = 1."""
    return (draft for draft in other_of_nth(pools, chance) if draft.family == "other_of_largest")


def other_of_second(pools: Pools, chance: Random) -> Iterator[Draft]:
    """`other_of_nth` with n > 1."""
    return (draft for draft in other_of_nth(pools, chance) if draft.family == "other_of_nth")


def sum_where(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The sum of one measure over the entities that another measure selects."""
    for first, second in joined_panels(pools, chance, 3):
        if not is_amount(second):
            continue
        asked_a, asked_b = asked_unit(first), asked_unit(second)
        limit = threshold_between([figure.value / asked_a.factor for figure in first], chance)
        if limit is None:
            continue
        sign, word = chance.choice([(">", "above"), ("<", "below")])
        bound = limit * asked_a.factor
        if sum((figure.value > bound) == (sign == ">") for figure in first) < 2:
            continue
        a, b = measure_phrase(first[0]), measure_phrase(second[0])
        question = (
            f"Of {names_of(first)}, take those whose figure for {a} is {word} {with_unit(limit, asked_a.phrase)}. "
            f"What do their figures for {b} add up to{asked_b.phrase}?"
        )
        chosen = of_entities(first, "entity", f" AND value {sign} {plain(bound)}")
        expression = of_entities(second, "SUM(value)", f" AND entity IN {chosen}")
        yield Draft(
            "sum_where",
            question,
            expression,
            (*first, *second),
            asked_b.factor,
            asked_b.decimals,
            parameters={"sign": sign, "bound": bound},
        )


def count_where(pools: Pools, chance: Random) -> Iterator[Draft]:
    """How many entities fulfil two conditions."""
    for first, second in joined_panels(pools, chance, 4):
        units = asked_unit(first), asked_unit(second)
        limits = [
            threshold_between([figure.value / unit.factor for figure in group], chance)
            for group, unit in zip((first, second), units, strict=True)
        ]
        if limits[0] is None or limits[1] is None:
            continue
        words = [chance.choice([(">", "above"), ("<", "below")]) for _ in limits]
        bounds = [limits[0] * units[0].factor, limits[1] * units[1].factor]
        question = (
            f"Of {names_of(first)}, how many have a figure for {measure_phrase(first[0])} {words[0][1]} "
            f"{with_unit(limits[0], units[0].phrase)} and at the same time a figure for {measure_phrase(second[0])} "
            f"{words[1][1]} {with_unit(limits[1], units[1].phrase)}?"
        )
        chosen = of_entities(first, "entity", f" AND value {words[0][0]} {plain(bounds[0])}")
        expression = of_entities(
            second, "COUNT(*)", f" AND value {words[1][0]} {plain(bounds[1])} AND entity IN {chosen}"
        )
        parameters = {"signs": [words[0][0], words[1][0]], "bounds": bounds}
        yield Draft("count_where", question, expression, (*first, *second), parameters=parameters)


def _one_table(first: Group, second: Group) -> bool:
    """Rows of one table in each document: "Germany" in a table of revenues is no part of another table's total."""
    return all(a.table == b.table for a, b in zip(first, second, strict=True))


def _divisible(first: Group, second: Group) -> bool:
    """Amounts in one unit, currency and year, neither negative, so that one is a percentage of the other."""
    return (
        (first[0].unit == second[0].unit and first[0].unit != "")
        or (first[0].is_cell and first[0].currency == second[0].currency and first[0].unit == second[0].unit)
    ) and (
        first[0].period == second[0].period
        and is_amount([*first, *second])
        and all(figure.value > 0 for figure in (*first, *second))
        and _one_table(first, second)
    )


def part_of(pools: Pools, chance: Random) -> Iterator[Draft]:
    """One measure as a percentage of another, of one entity."""
    for pair in joined_panels(pools, chance, 1):
        if not _divisible(*pair):
            continue
        a, b = pair[0][0], pair[1][0]
        if not b.value / 200 <= a.value <= 20 * b.value:
            continue
        question = chance.choice(
            [
                f"For {entity_phrase(a.entity)}, what percentage of the figure for {measure_phrase(b)} is the figure "
                f"for {measure_phrase(a)}{rounded_to(1)}?",
                f"Express the figure for {measure_phrase(a)} of {entity_phrase(a.entity)} as a percentage of its "
                f"figure for {measure_phrase(b)}{rounded_to(1)}.",
            ]
        )
        yield Draft("part_of", question, f"{one(a)} * 100 / {one(b)}", (a, b), decimals=1, rounded=True)


def difference_of(pools: Pools, chance: Random) -> Iterator[Draft]:
    """One measure minus another, of one entity."""
    for pair in joined_panels(pools, chance, 1):
        if not _divisible(*pair) or pair[0][0].value <= pair[1][0].value:
            continue
        a, b = pair[0][0], pair[1][0]
        asked = asked_unit([a, b])
        question = (
            f"By how much is the figure for {measure_phrase(a)} of {entity_phrase(a.entity)} larger than its figure for "
            f"{measure_phrase(b)}{asked.phrase}?"
        )
        yield Draft("difference_of", question, f"{one(a)} - {one(b)}", (a, b), asked.factor, asked.decimals)


def largest_part(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The largest percentage that one measure is of another, among entities."""
    for first, second in joined_panels(pools, chance, 2):
        if not _divisible(first, second):
            continue
        shares = sorted(a.value / b.value for a, b in zip(first, second, strict=True))
        if not Decimal("0.005") <= shares[-1] <= 20:
            continue
        question = (
            f"For each of {names_of(first)}, take the figure for {measure_phrase(first[0])} as a percentage of that for "
            f"{measure_phrase(second[0])}. What is the highest of these percentages{rounded_to(1)}?"
        )
        b = measure_join(second)
        expression = of_entities_joined(first, "MAX(facts.value * 100 / other.value)", b)
        yield Draft("largest_part", question, expression, (*first, *second), decimals=1, rounded=True)


def weighted_mean(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The mean of a percentage weighted by an amount ("weighted by population")."""
    sized = [p for p in pools.panels if _SIZE.search(p[0].attribute) and all(f.value > 0 for f in p)]
    rates = [p for p in pools.panels if is_rate(p) and not p[0].is_cell]
    weights = [p for p in sized if is_amount(p) and not p[0].is_cell]
    for first in rounds(rates, chance) if weights else ():
        pair = _cut(first, chance.choice(weights), 2, pools.max_entities, chance)
        if pair is None:
            continue
        rate, weight = pair
        question = (
            f"What is the mean of the figures for {measure_phrase(rate[0])} of {names_of(rate)}, weighted by "
            f"{measure_phrase(weight[0])}{asked_unit(rate).phrase}{rounded_to(2)}?"
        )
        joined = "SUM(facts.value::DOUBLE * other.value::DOUBLE) / SUM(other.value::DOUBLE)"
        expression = of_entities_joined(rate, joined, measure_join(weight))
        yield Draft("weighted_mean", question, expression, (*rate, *weight), decimals=2, rounded=True)


def measure_join(other: Group) -> str:
    """The second measure as a table to join on the entity."""
    return f"{of_entities(other, 'entity, value')} AS other"


def of_entities_joined(first: Group, select: str, other: str) -> str:
    """SQL over two measures of the same entities."""
    plain_select = of_entities(first, select)
    return plain_select.replace(" FROM facts WHERE ", f" FROM facts JOIN {other} USING (entity) WHERE ", 1)


JOIN_FAMILIES = {
    "other_of_largest": other_of_largest,
    "other_of_nth": other_of_second,
    "sum_where": sum_where,
    "count_where": count_where,
    "part_of": part_of,
    "difference_of": difference_of,
    "largest_part": largest_part,
    "weighted_mean": weighted_mean,
}
