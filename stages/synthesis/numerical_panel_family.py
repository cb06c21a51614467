"""What a query family over a panel is: how many entities it takes, and of what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from stages.synthesis.numerical_draft import (
    Asked,
    Draft,
    asked_unit,
)
from stages.synthesis.numerical_pools import Group, Pools, distinct, drawn, is_amount, is_rate, mixed

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


def exact(name: str, question: str, expression: str, chosen: Group, asked: Asked, **parameters: object) -> Draft:
    """A draft whose answer needs no rounding."""
    return Draft(name, question, expression, tuple(chosen), asked.factor, asked.decimals, parameters=parameters)


def difference_unit(chosen: Group, asked: Asked) -> str:
    """The unit of a difference."""
    return ", in percentage points" if chosen[0].unit.startswith("%") else asked.phrase
