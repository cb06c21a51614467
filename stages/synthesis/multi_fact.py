"""Multi-fact questions: chains of 2 to 6 facts around a target entity, and facts of whichever of two entities is ahead.

chain       "Let A be the country whose capital is Algiers. Let B be the country with which A has its longest land border.
             What is the coastline of B, in km?"
comparison  "Of A and B, take the one with the larger figure for airports. What is its capital?"
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from random import Random

from stages.synthesis.drafts import Draft, Workbench
from stages.synthesis.entrants import Entrant, described_group, listed, measure, winner_draft, winner_ending

PARADIGM = "multi_fact"


def chains(bench: Workbench, domain: str, hops: int, chance: Random) -> Iterator[Draft | None]:
    """Chains of `hops` facts whose last entity is of the domain; None where a try came to nothing."""
    entities = bench.entities.get(domain, [])
    while entities:
        entity = chance.choice(entities)
        ending = bench.pick_ending(entity, chance)
        path = bench.sampler.describe(entity, hops - 1, chance, beside=[ending.row]) if ending is not None else None
        if path is None or ending is None or not bench.sampler.resolves([*path, ending]):
            yield None
            continue
        if not bench.sampler.apart([*(step.row for step in path), ending.row]):
            yield None
            continue
        letters = bench.letters()
        told = bench.narrator.tell(path, letters)
        if told.before:
            bench.narrator.letter(told, letters)
        asked = bench.narrator.ask(ending, told.words)
        answer, is_number, unit = bench.finish(told, ending)
        question = " ".join([*told.before, f"What is {asked}{unit}?"])
        yield Draft(
            PARADIGM, f"chain_{hops}", domain, question, answer, is_number, told.hops, told.rows, told.links, told.kinds
        )


def comparisons(bench: Workbench, domain: str, chance: Random) -> Iterator[Draft | None]:
    """A fact of whichever of two or three described entities comes first, last or second by a number."""
    while True:
        entrants = described_group(bench, domain, "number", chance)
        yield None if entrants is None else _comparison(bench, domain, entrants, chance)


def _comparison(bench: Workbench, domain: str, entrants: list[Entrant], chance: Random) -> Draft | None:
    order = sorted(entrants, key=lambda entrant: Decimal(entrant.number))
    by = chance.choice(["max", "min"])
    if by == "max":
        order.reverse()
    rank = chance.randint(1, len(order)) if len(order) > 2 else 1
    winner = order[min(rank, 2) - 1]
    rank = min(rank, 2)
    ending = winner_ending(bench, winner, entrants, chance)
    if ending is None:
        return None
    word = {("max", 1): "largest", ("min", 1): "smallest", ("max", 2): "second-largest", ("min", 2): "second-smallest"}[
        by, rank
    ]
    if len(entrants) == 2:
        word = {"max": "larger", "min": "smaller"}[by]
    return winner_draft(
        bench,
        entrants,
        winner,
        ending,
        {"op": "compare", "rows": [entrant.row for entrant in entrants], "by": by, "rank": rank},
        f"Of {listed(entrants)}, take the one with the {word} {measure(entrants[0].triple)}.",
        paradigm=PARADIGM,
        family="comparison" if len(entrants) == 2 else "ordinal",
        domain=domain,
        kinds=["ordinal"] if len(entrants) > 2 else [],
    )
