"""Temporal questions: which of several described entities came first, last or between; years between two of them; and years
that statements of different documents speak of.

Sound because every date is a whole date or year that the document states, of one form within a question ("1962" is not
compared with "5 July 1962"), and no two are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from stages.synthesis.drafts import Draft, Workbench, join_told
from stages.synthesis.entrants import (
    Entrant,
    described_group,
    entrants_of,
    listed,
    measure,
    winner_draft,
    winner_ending,
)
from stages.synthesis.relation_phrases import statement_of

PARADIGM = "temporal"
MAX_YEARS_APART = 400


def orders(bench: Workbench, domain: str, chance: Random) -> Iterator[Draft | None]:
    """A fact of the earliest, latest or middle one of two or three dated entities."""
    while True:
        entrants = described_group(bench, domain, "date", chance)
        yield None if entrants is None else _order(bench, domain, entrants, chance)


def _order(bench: Workbench, domain: str, entrants: list[Entrant], chance: Random) -> Draft | None:
    by = chance.choice(["max", "min"])
    rank = 2 if len(entrants) == 3 and chance.random() < 0.4 else 1
    winner = sorted(entrants, key=lambda entrant: entrant.number, reverse=by == "max")[rank - 1]
    ending = winner_ending(bench, winner, entrants, chance)
    if ending is None:
        return None
    word = {"max": "latest", "min": "earliest"}[by] if len(entrants) > 2 else {"max": "later", "min": "earlier"}[by]
    if rank == 2:
        word = "second-latest" if by == "max" else "second-earliest"
    return winner_draft(
        bench,
        entrants,
        winner,
        ending,
        {"op": "compare", "rows": [entrant.row for entrant in entrants], "by": by, "rank": rank},
        f"Of {listed(entrants)}, take the one with the {word} {measure(entrants[0].triple)}.",
        paradigm=PARADIGM,
        family="order",
        domain=domain,
        kinds=["temporal"],
    )


def gaps(bench: Workbench, domain: str, chance: Random) -> Iterator[Draft | None]:
    """Years between the dates of two described entities."""
    while True:
        entrants = described_group(bench, domain, "date", chance, sizes=(2,), last=0)
        if entrants is None:
            yield None
            continue
        what = measure(entrants[0].triple)
        asked = f"How many calendar years lie between the {what} of A and that of B (the difference of the two years)?"
        yield _gap(domain, "gap", entrants, asked)


def statements(bench: Workbench, chance: Random) -> Iterator[Draft | None]:
    """Years between what two statements of different documents speak of, the documents described."""
    found = bench.dated_statements
    while found.height > 1:
        one, two = (found.row(index, named=True) for index in chance.sample(range(found.height), 2))
        distance = abs(int(one["number"]) - int(two["number"]))
        if one["head_id"] == two["head_id"] or not 0 < distance <= MAX_YEARS_APART:
            yield None
            continue
        entrants = entrants_of(bench, [one, two], chance, last=0)
        if entrants is None:
            yield None
            continue
        first, second = (statement_of(item["relation"]) for item in (one, two))
        asked = f'A says: "{first}". B says: "{second}". How many years lie between the two years that fill the blanks?'
        yield _gap("texts", "statements", entrants, asked)


def _gap(domain: str, family: str, entrants: list[Entrant], asked: str) -> Draft | None:
    years = [int(entrant.number[:4]) for entrant in entrants]
    if years[0] == years[1]:
        return None
    before, hops, rows, links, kinds = join_told([entrant.told for entrant in entrants])
    hops.append({"op": "gap", "rows": [entrant.row for entrant in entrants]})
    rows += [entrant.triple["row"] for entrant in entrants]
    question = " ".join([*before, asked])
    answer = str(abs(years[0] - years[1]))
    return Draft(PARADIGM, family, domain, question, answer, True, hops, rows, links, kinds)
