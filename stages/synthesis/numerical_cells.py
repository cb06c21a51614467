"""Query families within one document: look-ups, and rows of one column of a table.

lookup, table_cell                       one figure
rows_sum, row_share, row_difference, rows_above, other_column, rising_rows
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from random import Random

from stages.synthesis.numerical_draft import (
    Draft,
    asked_unit,
    measure_phrase,
    of_rows,
    one,
    rounded_to,
    rows_of,
    threshold_between,
    with_unit,
)
from stages.synthesis.numerical_figures import Figure, measure_of
from stages.synthesis.numerical_pools import Group, Pools, distinct, drawn, is_amount, rounds
from stages.synthesis.phrasing import entity_phrase, is_plain_noun
from stages.synthesis.quantities import plain
from stages.synthesis.selection import in_turn, spread

MAX_ROWS = 6
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")


def lookups(pools: Pools, chance: Random) -> Iterator[Draft]:
    """One value under a heading: "What is the coastline of Chile, in km?"."""
    for figure in _spread([figure for figure in pools.figures if not figure.is_cell], chance):
        asked = asked_unit([figure])
        head = "is the" if is_plain_noun(figure.attribute) else "is the figure for"
        question = f"What {head} {measure_phrase(figure)} of {entity_phrase(figure.entity)}{asked.phrase}?"
        yield Draft("lookup", question, one(figure), (figure,), asked.factor, asked.decimals)


def table_cells(pools: Pools, chance: Random) -> Iterator[Draft]:
    """One cell, named by row and column."""
    for figure in _spread([figure for figure in pools.figures if figure.is_cell], chance):
        asked = asked_unit([figure])
        where = f'row "{figure.attribute}", column "{figure.column_name}"'
        sign = " (brackets mean a negative number)" if figure.value < 0 and "(" in figure.text else ""
        question = f"{figure.entity}: which number stands in {where}{_printed([figure])}{sign}?"
        yield Draft("table_cell", question, one(figure), (figure,), asked.factor, asked.decimals)


def _printed(figures: Group) -> str:
    """The unit of cells: the scale or currency, or "as printed" where the table says nothing."""
    return asked_unit(figures).phrase or ", as printed"


def _spread(figures: list[Figure], chance: Random) -> list[Figure]:
    return spread(
        figures,
        chance,
        lambda figure: (
            (figure.document_id, figure.table, figure.caption),
            figure.document_id,
            (figure.measure, figure.period),
        ),
    )


def _columns(pools: Pools, chance: Random, least: int) -> Iterator[Group]:
    """Columns in random order, one of every document in turn, so that no document fills a family."""
    by_document: defaultdict[str, list[Group]] = defaultdict(list)
    for group in pools.columns:
        if len(group) >= least:
            by_document[group[0].document_id].append(group)
    yield from in_turn([rounds(groups, chance) for groups in by_document.values()])


def _where(figure: Figure) -> str:
    """How a question names a column of a document."""
    return f'{figure.entity}, column "{figure.column_name}"'


def _some_rows(group: Group, least: int, chance: Random) -> Group | None:
    """Rows to be listed, of one kind of period name, without totals (which contain the others)."""
    rows = [
        f for f in group if f.period == group[0].period and not measure_of(f.attribute).startswith(("total", "net "))
    ]
    return drawn(rows, least, MAX_ROWS, chance)


def rows_sum(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The sum of named rows."""
    for group in _columns(pools, chance, 3):
        chosen = _some_rows(group, 2, chance)
        if chosen is None or not is_amount(chosen):
            continue
        asked = asked_unit(chosen)
        question = f"{_where(chosen[0])}: what do the rows {rows_of(chosen)} add up to{_printed(chosen)}?"
        expression = of_rows(chosen, "SUM(value)")
        yield Draft("rows_sum", question, expression, tuple(chosen), asked.factor, asked.decimals)


def row_difference(pools: Pools, chance: Random) -> Iterator[Draft]:
    """One row minus another."""
    for group in _columns(pools, chance, 3):
        chosen = drawn([f for f in group if f.period == group[0].period], 2, 2, chance)
        if chosen is None or chosen[0].value == chosen[1].value or not is_amount(chosen):
            continue
        high, low = sorted(chosen, key=lambda figure: -figure.value)
        asked = asked_unit(chosen)
        question = (
            f'{_where(high)}: by how much is the number in row "{high.attribute}" larger than the number in row '
            f'"{low.attribute}"{_printed(chosen)}?'
        )
        yield Draft("row_difference", question, f"{one(high)} - {one(low)}", (high, low), asked.factor, asked.decimals)


def row_share(pools: Pools, chance: Random) -> Iterator[Draft]:
    """One row as a percentage of another, of a total where there is one."""
    for group in _columns(pools, chance, 3):
        rows = [f for f in group if f.period == group[0].period and f.value > 0]
        totals = [figure for figure in rows if measure_of(figure.attribute).startswith("total")]
        if len(rows) < 2 or not is_amount(rows):
            continue
        whole = chance.choice(totals or rows)
        part = chance.choice(rows)
        if part is whole or not whole.value / 200 <= part.value <= whole.value:
            continue
        question = (
            f'{_where(whole)}: what percentage of the number in row "{whole.attribute}" is the number in row '
            f'"{part.attribute}"{rounded_to(1)}?'
        )
        yield Draft("row_share", question, f"{one(part)} * 100 / {one(whole)}", (part, whole), decimals=1, rounded=True)


def rows_above(pools: Pools, chance: Random) -> Iterator[Draft]:
    """How many of the named rows lie above a threshold."""
    for group in _columns(pools, chance, 3):
        chosen = _some_rows(group, 3, chance)
        if chosen is None:
            continue
        asked = asked_unit(chosen)
        limit = threshold_between([figure.value / asked.factor for figure in chosen], chance)
        if limit is None:
            continue
        bound = limit * asked.factor
        question = (
            f"{_where(chosen[0])}: how many of the rows {rows_of(chosen)} show a number above "
            f"{with_unit(limit, asked.phrase)}?"
        )
        expression = of_rows(chosen, "COUNT(*)", f" AND value > {plain(bound)}")
        yield Draft("rows_above", question, expression, tuple(chosen), parameters={"bound": bound})


def _two_columns(pools: Pools, chance: Random, least: int) -> Iterator[tuple[Group, Group]]:
    """The same rows of two columns of a table."""
    tables: defaultdict[tuple[str, int], list[Group]] = defaultdict(list)
    for group in pools.columns:
        tables[(group[0].document_id, group[0].table)].append(group)
    for group in _columns(pools, chance, least):
        second = chance.choice(tables[(group[0].document_id, group[0].table)])
        others = {figure.row: figure for figure in second}
        rows = [f for f in group if f.row in others and f.period == group[0].period]
        if second is group or len(rows) < least:
            continue
        rows = [f for f in rows if not measure_of(f.attribute).startswith(("total", "net "))]
        matched = [f for f in rows if others[f.row].period == others[rows[0].row].period]
        chosen = drawn(matched, least, MAX_ROWS, chance)
        if chosen is not None:
            yield chosen, [others[figure.row] for figure in chosen]


def other_column(pools: Pools, chance: Random) -> Iterator[Draft]:
    """The row with the largest number in one column: what stands in another column?"""
    for first, second in _two_columns(pools, chance, 3):
        if not distinct(first) or [f.fact_attribute for f in first] != [f.fact_attribute for f in second]:
            continue
        asked = asked_unit(second)
        order, word = chance.choice([("DESC", "largest"), ("ASC", "smallest")])
        question = (
            f"{first[0].entity}: of the rows {rows_of(first)}, take the one with the {word} number in column "
            f'"{first[0].column_name}". What number does it show in column "{second[0].column_name}"{_printed(second)}?'
        )
        chosen = of_rows(first, "attribute", f" ORDER BY value {order} LIMIT 1")
        expression = of_rows(second, "value", f" AND attribute = {chosen}")
        yield Draft(
            "other_column",
            question,
            expression,
            (*first, *second),
            asked.factor,
            asked.decimals,
            parameters={"descending": order == "DESC"},
        )


def rising_rows(pools: Pools, chance: Random) -> Iterator[Draft]:
    """In how many rows one column shows more than another."""
    for first, second in _two_columns(pools, chance, 3):
        same = [f.fact_attribute for f in first] == [f.fact_attribute for f in second]
        if not all(_YEAR.search(group[0].column_name) for group in (first, second)):
            continue  # only columns of two dates compare row by row
        if not same or first[0].unit != second[0].unit or first[0].factor != second[0].factor:
            continue
        if any(a.value == b.value for a, b in zip(first, second, strict=True)):
            continue
        question = (
            f"{first[0].entity}: for how many of the rows {rows_of(first)} is the number in column "
            f'"{first[0].column_name}" larger than in column "{second[0].column_name}"?'
        )
        expression = (
            f"(SELECT COUNT(*) FROM {of_rows(first, 'attribute, value AS mine')} AS a JOIN "
            f"{of_rows(second, 'attribute, value AS theirs')} AS b USING (attribute) WHERE mine > theirs)"
        )
        yield Draft("rising_rows", question, expression, (*first, *second))


CELL_FAMILIES = {
    "rows_sum": rows_sum,
    "row_difference": row_difference,
    "row_share": row_share,
    "rows_above": rows_above,
    "other_column": other_column,
    "rising_rows": rising_rows,
}
