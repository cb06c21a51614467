"""Figures grouped by what can be compared: the pools that query families draw from.

    Panel   one measure and period of several entities, in one unit and currency     (countries' coastlines)
    Series  one measure of one entity over years                                     (net income 2022, 2023, 2024)
    Column  rows of one column of one table, in one unit and scale

Documents of a kind alternate (headings, tables), so that no source outnumbers the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from stages.synthesis.numerical_figures import Figure

Group = list[Figure]
T = TypeVar("T")

MIN_PANEL = 3
MIN_COLUMN_ROWS = 3
MAX_COLUMN_ROWS = 24
_ROUNDS = 60  # draws per group at most

# What cannot be added up: rates, shares, ages, indices; a number per something else.
_RATE_WORDS = re.compile(
    r"%|/|\bper\b|\byears?\b|percent|\brates?\b|index|average|\bmean\b|median|elevation|ratio|margin|density|prevalence"
    r"|earnings \(loss\)|diluted|basic|price|\bsex\b|growth|expectancy|length|\bage\b|\bterm\b",
    re.IGNORECASE,
)
_RATE_COLUMN = re.compile(r"%|\bper\b|percent|\brate|index|average|ratio|expectancy|price|change", re.IGNORECASE)
_NOT_COMPARED = re.compile(r"exchange rate", re.IGNORECASE)  # every country's is in its own currency


@dataclass(frozen=True)
class Pools:
    """Everything families draw from. `joint`: pairs of panels of different measures with entities in common."""

    figures: list[Figure]
    panels: list[Group]
    series: list[Group]
    columns: list[Group]
    series_panels: list[list[Group]]
    max_entities: int


def build_pools(figures: Sequence[Figure], max_entities: int) -> Pools:
    """Group figures once; order follows the corpus."""
    panels: defaultdict[tuple[str, ...], Group] = defaultdict(list)
    series: defaultdict[tuple[str, ...], Group] = defaultdict(list)
    columns: defaultdict[tuple[object, ...], dict[int, Figure]] = defaultdict(dict)
    for figure in figures:
        if figure.scaled and (not figure.is_cell or figure.year) and not _NOT_COMPARED.search(figure.attribute):
            kind = "cell" if figure.is_cell else "heading"
            panels[(kind, figure.measure, figure.period, figure.unit, figure.currency)].append(figure)
        if figure.year is not None and not _NOT_COMPARED.search(figure.attribute):
            series[(figure.document_id, figure.measure, figure.unit, str(figure.is_cell))].append(figure)
        if figure.is_cell:
            key = (figure.document_id, figure.table, figure.column, figure.unit, figure.factor)
            columns[key].setdefault(figure.row, figure)
    lines = [
        sorted(group, key=_year)
        for group in series.values()
        if len(group) > 1 and _one_factor(group) and _one_currency(group)
    ]
    return Pools(
        figures=list(figures),
        panels=_alternating([group for group in panels.values() if len(group) >= MIN_PANEL]),
        series=_alternating(lines),
        columns=[
            group
            for rows in columns.values()
            if MIN_COLUMN_ROWS <= len(rows) <= MAX_COLUMN_ROWS and _one_currency(group := list(rows.values()))
        ],
        series_panels=_series_panels(lines),
        max_entities=max_entities,
    )


def _one_factor(group: Group) -> bool:
    """One scale over the years, and one figure per year."""
    if group[0].is_cell and len({figure.factor for figure in group}) > 1:
        return False
    return len({figure.year for figure in group}) == len(group)


def _one_currency(group: Group) -> bool:
    """No two of them are marked as different currencies; one that is not marked is in that of its document."""
    return len({figure.currency for figure in group} - {""}) <= 1


def _series_panels(lines: Sequence[Group]) -> list[list[Group]]:
    """Series of one measure and unit of several entities."""
    found: defaultdict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in lines:
        first = group[0]
        if first.scaled:
            found[(first.measure, first.unit, first.currency, str(first.is_cell))].append(group)
    return [groups for groups in found.values() if len(groups) >= 2]


def _year(figure: Figure) -> int:
    return figure.year or 0


def _alternating(groups: Sequence[Group]) -> list[Group]:
    return list(alternate([group for group in groups if not group[0].is_cell], [g for g in groups if g[0].is_cell]))


def alternate(first: Sequence[T], second: Sequence[T]) -> Iterator[T]:
    """One of each in turn, then the rest."""
    for index in range(max(len(first), len(second))):
        yield from first[index : index + 1]
        yield from second[index : index + 1]


def rounds(groups: Sequence[T], chance: Random) -> Iterator[T]:
    """Every group in random order, again and again, so that any prefix is spread over the groups."""
    order = list(groups)
    chance.shuffle(order)
    for _ in range(_ROUNDS):
        yield from order


def mixed(groups: Sequence[Group], chance: Random) -> Iterator[Group]:
    """`rounds` of headings and of tables in turn."""
    headed = rounds([group for group in groups if not group[0].is_cell], chance)
    cells = rounds([group for group in groups if group[0].is_cell], chance)
    streams = [headed, cells]
    while streams:
        for stream in list(streams):
            group = next(stream, None)
            if group is None:
                streams.remove(stream)
            else:
                yield group


def is_amount(figures: Iterable[Figure]) -> bool:
    """True if the figures may be added up and divided: counts and amounts, not rates, ages, indices or ranks."""
    group = list(figures)
    if any(_RATE_WORDS.search(f"{figure.shown} {figure.attribute}") for figure in group):
        return False
    if any(_RATE_COLUMN.search(name) for name in {figure.column_name for figure in group}):
        return False
    return group[0].unit != "" or group[0].is_cell or all(f.value == f.value.to_integral_value() for f in group)


def is_rate(figures: Iterable[Figure]) -> bool:
    """True for percentages."""
    return all(figure.unit.startswith("%") for figure in figures)


def distinct(figures: Sequence[Figure]) -> bool:
    """No two values are equal."""
    return len({figure.value for figure in figures}) == len(figures)


def drawn(group: Group, least: int, most: int, chance: Random) -> Group | None:
    """A random subset in random order, or None if the group is smaller than `least`."""
    if len(group) < least or most < least:
        return None
    return chance.sample(group, chance.randint(least, min(most, len(group))))
