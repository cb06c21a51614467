"""Causal questions, where the documents themselves state the cause or the dependency.

    stated      a sentence "<effect> due to <cause>": the effect is quoted, the document described, the cause asked for
    dependency  Python source: which one file or class directly depends on a described one, so that it breaks without it; and
                what depends on that in turn

Sound because the causal relation is read, never guessed: a causal mark in one sentence, an import or a base class in the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np

from stages.synthesis.drafts import Draft, Workbench
from stages.synthesis.relation_phrases import effect_of
from stages.synthesis.steps import Step

PARADIGM = "causal"


def stated(bench: Workbench, hops: int, chance: Random) -> Iterator[Draft | None]:
    """The stated cause of a quoted effect, in a document that `hops` - 1 facts describe."""
    found = bench.stated_causes
    while found.height:
        cause = found.row(chance.randrange(found.height), named=True)
        node = int(cause["head_id"])
        path = bench.sampler.describe(node, hops - 1, chance, beside=[cause["row"]])
        if path is None or not bench.sampler.resolves(path) or len(bench.graph.tails(node, cause["relation_id"])) != 1:
            yield None
            continue
        letters = bench.letters()
        told = bench.narrator.tell(path, letters)
        if told.before:
            bench.narrator.letter(told, letters)
        row = bench.narrator.row(bench.narrator.triple(cause["row"]))
        told.hops.append({"op": "value", "from": told.name, "row": row})
        told.rows.append(cause["row"])
        asked = f'According to {told.words}, what is this due to: "{effect_of(cause["relation"])}"?'
        question = " ".join([*told.before, asked])
        domain = bench.narrator.domain(node)
        yield Draft(
            PARADIGM, "stated", domain, question, row["value"], False, told.hops, told.rows, told.links, told.kinds
        )


def dependencies(bench: Workbench, hops: int, chance: Random) -> Iterator[Draft | None]:
    """What breaks when a described file or class is taken away: one or two steps of dependency, then a fact of that."""
    steps = bench.dependencies
    while len(steps):
        first = bench.steps[int(chance.choice(steps))]
        chain = [first]
        if hops >= 4 and chance.random() < 0.5:
            targets = bench.steps.target[steps]
            onward = (bench.steps.source[steps] == first.target) & ~np.isin(targets, [first.source, first.target])
            if onward.any():
                chain.append(bench.steps[int(chance.choice(steps[onward]))])
        yield _dependency(bench, chain, hops, chance)


def _dependency(bench: Workbench, chain: list[Step], hops: int, chance: Random) -> Draft | None:
    source, broken = chain[0].source, chain[-1].target
    kind = bench.narrator.type(broken)
    ending = None
    if kind == "class" or chance.random() < 0.4:
        ending = bench.pick_ending(
            broken, chance, without=["base class", "package", "imports"], beside=[step.row for step in chain]
        )
        if ending is None or not bench.sampler.resolves([ending]):
            return None
    length = hops - len(chain) - (ending is not None)
    beside = [step.row for step in chain] + ([ending.row] if ending is not None else [])
    avoid = [step.target for step in chain]
    path = bench.sampler.describe(source, length, chance, avoid, beside) if length > 0 else None
    if path is None or not bench.sampler.resolves([*path, *chain]):
        return None
    letters = bench.letters()
    told = bench.narrator.tell(path, letters)
    bench.narrator.letter(told, letters)
    sentences = [_consequence(step, bench) for step in chain]
    words = told.words
    before = list(told.before)
    for step, sentence in zip(chain, sentences, strict=True):
        bench.narrator.follow(told, step)
        letter = letters.pop(0)
        before.append(sentence.format(gone=words, broken=letter))
        words = letter
    if ending is None:
        question, answer, is_number = f"Which file is {words}?", told.name, False
    else:
        asked = bench.narrator.ask(ending, words)
        answer, is_number, unit = bench.finish(told, ending)
        question = f"What is {asked}{unit}?"
    if answer in "".join(before):
        return None
    return Draft(
        PARADIGM,
        "dependency",
        "code",
        " ".join([*before, question]),
        answer,
        is_number,
        told.hops,
        told.rows,
        told.links,
        told.kinds,
    )


def _consequence(step: Step, bench: Workbench) -> str:
    relation = bench.narrator.triple(step.row)["relation"]
    if relation == "imports":
        return "Without {gone}, one other file of the packages at hand could not be imported, as its top-level code imports {gone}: {broken}."
    return "Without {gone}, one class of the packages at hand would lose a class that it directly extends: {broken}."
