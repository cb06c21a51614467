"""Entities to be compared: taken from one group of comparable facts, described rather than named, within a number of hops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from stages.synthesis.drafts import Draft, Workbench, join_told
from stages.synthesis.narrative import Told
from stages.synthesis.relation_phrases import forward
from stages.synthesis.steps import Step


@dataclass(frozen=True)
class Entrant:
    """One of the entities compared: its node, the triple that is compared, and how the question speaks of it."""

    node: int
    triple: dict[str, Any]
    row: dict[str, Any]
    told: Told

    @property
    def number(self) -> str:
        """The number, or the date as ISO text."""
        return str(self.triple["number"])


def described_group(
    bench: Workbench, domain: str, kind: str, chance: Random, sizes: Sequence[int] = (2, 2, 3), last: int = 1
) -> list[Entrant] | None:
    """Entities of one group (`kind`: number or date) with different values, described with letters. None: a try that failed.

    last: hops that come after the comparison; descriptions get what is left of max_hops.
    """
    groups = bench.groups.get((kind, domain))
    if not groups:
        return None
    group = chance.choice(groups)
    size = min(chance.choice(sizes), group.height, bench.max_hops - last)
    if size < 2:
        return None
    picked = [group.row(index, named=True) for index in chance.sample(range(group.height), size)]
    if len({item["number"] for item in picked}) != size or len({item["head_id"] for item in picked}) != size:
        return None
    return entrants_of(bench, picked, chance, last)


def entrants_of(bench: Workbench, picked: Sequence[dict[str, Any]], chance: Random, last: int) -> list[Entrant] | None:
    """Entrants of rows (row, head_id), as many of them described as hops allow; at least one."""
    size = len(picked)
    left = bench.max_hops - size - last
    if left < 1:
        return None
    described = set(chance.sample(range(size), min(size, left, chance.choice([1, size]))))
    spare = left - len(described)
    letters = bench.letters()
    heads = [int(item["head_id"]) for item in picked]
    entrants = []
    for index, item in enumerate(picked):
        node = heads[index]
        told = Told(words=bench.narrator.named(node), name=bench.narrator.name(node))
        if index in described:
            length = 1 + (spare > 0 and chance.random() < 0.5)
            own = [int(item["row"])]
            path = bench.sampler.describe(node, length, chance, heads, own) or bench.sampler.describe(
                node, 1, chance, heads, own
            )
            if path is None or not bench.sampler.resolves(path):
                return None
            spare -= len(path) - 1
            told = bench.narrator.tell(path)
        bench.narrator.letter(told, letters)
        triple = bench.narrator.triple(int(item["row"]))
        entrants.append(Entrant(node, triple, bench.narrator.row(triple), told))
    rows = [row for entrant in entrants for row in (*entrant.told.rows, entrant.triple["row"])]
    return entrants if len(set(rows)) == len(rows) else None


def winner_ending(bench: Workbench, winner: Entrant, entrants: Sequence[Entrant], chance: Random) -> Step | None:
    """A fact of the winner that another of them has with another value: else the comparison would not matter."""
    for _ in range(4):
        ending = bench.pick_ending(winner.node, chance, without=[winner.triple["relation"]])
        if ending is None or not bench.sampler.resolves([ending]):
            continue
        relation = int(bench.graph.columns["relation_id"][ending.row])
        own = bench.graph.tails(winner.node, relation)
        others = [bench.graph.tails(entrant.node, relation) for entrant in entrants if entrant is not winner]
        used = {row for entrant in entrants for row in (*entrant.told.rows, entrant.triple["row"])}
        if ending.row not in used and any(tails and tails != own for tails in others) and own not in others:
            return ending
    return None


def winner_draft(
    bench: Workbench,
    entrants: Sequence[Entrant],
    winner: Entrant,
    ending: Step,
    hop: dict[str, Any],
    sentence: str,
    *,
    paradigm: str,
    family: str,
    domain: str,
    kinds: Sequence[str] = (),
) -> Draft:
    """A question about the winner: the entrants told, `sentence` saying which of them is meant, then the ending asked for.

    hop: what finds the winner in the proof. kinds: how the choice itself describes it.
    """
    before, hops, rows, links, described = join_told([entrant.told for entrant in entrants])
    told = Told(words=f"that {bench.noun(winner.node)}", name=bench.narrator.name(winner.node))
    asked = bench.narrator.ask(ending, told.words)
    answer, is_number, unit = bench.finish(told, ending)
    compared = [entrant.triple["row"] for entrant in entrants]
    return Draft(
        paradigm,
        family,
        domain,
        " ".join([*before, sentence, f"What is {asked}{unit}?"]),
        answer,
        is_number,
        [*hops, hop, *told.hops],
        [*rows, *compared, *told.rows],
        links,
        [*described, *kinds, *told.kinds],
    )


def listed(entrants: Sequence[Entrant]) -> str:
    """The entrants in words: "A, B and C"."""
    names = [entrant.told.words for entrant in entrants]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def measure(triple: dict[str, Any]) -> str:
    """What is compared, as a question says it: "figure for coastline", 'figure in row "Net income", column "2024"'."""
    words = forward(triple["relation"], triple["head_type"], triple["tail_type"]) or ""
    head = words.removesuffix(" of {x}").replace("{{", "{").replace("}}", "}")
    if not words.endswith(" of {x}"):
        return f"figure for {triple['relation']}"
    return head.removeprefix("the ")
