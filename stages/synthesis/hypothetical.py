"""Hypothetical questions: one fact is supposed to be different, and the answer is worked out again over the facts.

    exchange  "Suppose A had the coastline of C. Which of A and B would then have the longer one?": only asked where the
              supposition changes the outcome, so that it cannot be answered by looking up
    later     "Suppose A had come 12 years later": the same with dates
    without   "Suppose A had no land border with the country with which it has its longest one": the second of a list

Sound because the changed world differs in that one value, and all values compared in it are different.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from stages.synthesis.drafts import Draft, Workbench
from stages.synthesis.entrants import Entrant, described_group, measure, winner_draft, winner_ending
from stages.synthesis.naming import is_name
from stages.synthesis.steps import Step

PARADIGM = "hypothetical"


def exchanges(bench: Workbench, domain: str, chance: Random) -> Iterator[Draft | None]:
    """One of two entities gets a third one's number."""
    while True:
        entrants = described_group(bench, domain, "number", chance, sizes=(3,))
        yield None if entrants is None or len(entrants) != 3 else _exchange(bench, domain, entrants, chance)


def _exchange(bench: Workbench, domain: str, entrants: list[Entrant], chance: Random) -> Draft | None:
    changed, other, giver = entrants
    values = [Decimal(entrant.number) for entrant in entrants]
    if (values[0] > values[1]) == (values[2] > values[1]):
        return None  # nothing would change
    by = chance.choice(["max", "min"])
    ahead = (values[2] > values[1]) == (by == "max")
    winner = changed if ahead else other
    words = {"max": "larger", "min": "smaller"}[by]
    x = [entrant.told.words for entrant in entrants]
    what = measure(entrants[0].triple)
    supposed = (
        f"Suppose that {x[0]}'s {what} were that of {x[2]} and all else stayed as it is. "
        f"Of {x[0]} and {x[1]}, take the one that would then have the {words} one."
    )
    hop = {
        "op": "suppose",
        "rows": [entrant.row for entrant in entrants],
        "changed": entrants[0].row["entity"],
        "gets": giver.row["entity"],
        "by": by,
    }
    return _outcome(bench, domain, "exchange", entrants, winner, supposed, hop, chance)


def later(bench: Workbench, domain: str, chance: Random) -> Iterator[Draft | None]:
    """One of two dated entities comes some years later."""
    while True:
        entrants = described_group(bench, domain, "date", chance, sizes=(2,))
        yield None if entrants is None else _later(bench, domain, entrants, chance)


def _later(bench: Workbench, domain: str, entrants: list[Entrant], chance: Random) -> Draft | None:
    first, second = entrants
    years = [int(entrant.number[:4]) for entrant in entrants]
    if years[0] >= years[1]:
        return None
    plus = years[1] - years[0] + chance.randint(1, 9)
    by = chance.choice(["max", "min"])
    winner = first if by == "max" else second
    a, b = first.told.words, second.told.words
    what = measure(first.triple)
    word = {"max": "later", "min": "earlier"}[by]
    supposed = f"Suppose that the {what} of {a} were {plus} years later than it is. Of {a} and {b}, take the one that would then have the {word} {what}."
    hop = {
        "op": "suppose",
        "rows": [first.row, second.row],
        "changed": first.row["entity"],
        "plus": plus,
        "by": by,
    }
    return _outcome(bench, domain, "later", entrants, winner, supposed, hop, chance)


def _outcome(
    bench: Workbench,
    domain: str,
    family: str,
    entrants: list[Entrant],
    winner: Entrant,
    supposed: str,
    hop: dict[str, Any],
    chance: Random,
) -> Draft | None:
    ending = winner_ending(bench, winner, entrants[:2], chance)
    if ending is None:
        return None
    return winner_draft(bench, entrants, winner, ending, hop, supposed, paradigm=PARADIGM, family=family, domain=domain)


def without(bench: Workbench, hops: Sequence[int], chance: Random) -> Iterator[Draft | None]:
    """The entry of a list that would come first if the first were not there, and from there on a fact of it."""
    while len(bench.largest_entries):
        step = bench.steps[int(chance.choice(bench.largest_entries))]
        second = _second(bench, step)
        yield None if second is None else _without(bench, step, second, chance.choice(hops), chance)


def _without(bench: Workbench, step: Step, second: int, hops: int, chance: Random) -> Draft | None:
    path = bench.sampler.describe(step.source, hops - 1, chance, beside=[step.row]) if hops > 1 else None
    if path is None or not bench.sampler.resolves(path) or not bench.sampler.apart([*(s.row for s in path), step.row]):
        return None
    letters = bench.letters()
    told = bench.narrator.tell(path, letters)
    bench.narrator.letter(told, letters)
    triple = bench.narrator.triple(step.row)
    answer = str(bench.narrator.triple(second)["tail_text"])
    if not is_name(answer):
        return None
    question = (
        f'Suppose that, in the list under "{triple["relation"]}" of {told.words}, the entry with the largest figure were struck off. '
        "Which entry would then have the largest figure?"
    )
    told.hops.append({"op": "suppose", "without": "max", "from": told.name, "row": bench.narrator.list_row(triple)})
    told.rows.append(step.row)
    domain = bench.narrator.domain(step.source)
    question = " ".join([*told.before, question])
    return Draft(PARADIGM, "without", domain, question, answer, False, told.hops, told.rows, told.links, told.kinds)


def _second(bench: Workbench, step: Step) -> int | None:
    """The row of the entry that comes second alone."""
    relation = int(bench.graph.columns["relation_id"][step.row])
    rows = [bench.narrator.triple(int(row)) for row in bench.graph.rows_from(step.source, relation)]
    ordered = sorted(rows, key=lambda triple: Decimal(triple["number"]), reverse=True)
    alone = len(ordered) > 2 and ordered[1]["number"] != ordered[2]["number"]
    return int(ordered[1]["row"]) if alone else None
