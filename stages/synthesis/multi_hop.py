"""Multi-hop questions over the knowledge graph (stage synthesize@multi_hop, paper section 3.1).

- neighbour:  "What is the capital of the country that has a land border of 1,941 km with Algeria?": an entry of one
  document's list leads to another document's attribute (two documents);
- described:  the same, with the first country described by a value that only it has ("the country whose capital is
  Algiers"; three hops, two documents);
- comparison: an attribute of whichever of two entities has the larger figure (two documents, three values);
- attribute:  an attribute of the entity that a value describes (one document, two places).

Each question has one answer in the whole graph: entries are told apart by a number or rank that no other entry of the
list has, descriptions by a value that no other entity has. No answer stands in its question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from stages.common.metrics import Emit
from stages.common.records import AnswerKind, QAPair, TaskType
from stages.common.seeds import rng
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.corpus import Corpus, read_corpus
from stages.synthesis.facts import Fact
from stages.synthesis.knowledge_graph import KnowledgeGraph, Mention, build_graph
from stages.synthesis.lists import choose, shown_value
from stages.synthesis.naming import naming_facts
from stages.synthesis.numerical_families import comparable
from stages.synthesis.pairs import make_pair
from stages.synthesis.phrasing import attribute_phrase, entity_phrase, in_unit, is_plain_noun
from stages.synthesis.proofs import fact_row, joint_evidence
from stages.synthesis.selection import Selection, fill, in_turn, spread, write_selection

NAME_SHARE = 0.5  # answers that are names rather than numbers
ROUNDS = 6  # questions per edge or attribute at most

# How a relation's entry is described: (by number, largest, smallest). {value}, {head} are filled in.
_RELATIONS = {
    "land boundaries border countries": (
        "the country that has a land border of {value} with {head}",
        "the country with which {head} has its longest land border",
        "the country with which {head} has its shortest land border",
    ),
    "exports partners": ("", "the largest export partner of {head}", ""),
    "imports partners": ("", "the largest import partner of {head}", ""),
}
_ANY_RELATION = (
    'the entry with {value} under "{relation}" of {head}',
    'the entry with the largest figure under "{relation}" of {head}',
    "",
)
_WAYS = ("value", "max", "min")


def run(
    config: SynthesizeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make multi-hop questions. NotEnoughDataError if the documents yield too few."""
    del state_dir, emit
    corpus = read_corpus(inputs["documents"])
    selection = make_questions(corpus, config.generator.questions, config.seed)
    return write_selection(selection, TaskType.MULTI_HOP, config.generator, corpus.documents, out_dir)


def make_questions(corpus: Corpus, questions: int, seed: int) -> Selection:
    """Up to `questions` questions, the families in turn (two of neighbour to one of each other)."""
    knowledge = build_graph(corpus)
    targets = _targets(corpus.facts)
    unique = _unique_descriptions(corpus.facts)
    selection = Selection(dropped=list(corpus.dropped))
    neighbour = _neighbours(knowledge, targets, {}, rng(seed, "neighbour"), seed)
    described = _neighbours(knowledge, targets, unique, rng(seed, "described"), seed)
    compared = _comparisons(corpus.facts, targets, rng(seed, "comparison"), seed)
    countries = {head for head, _, mention in knowledge.mentions() if mention.relation in _RELATIONS}
    attribute = _attributes(targets, unique, countries, rng(seed, "attribute"), seed)
    fill(selection, in_turn([neighbour, compared, neighbour, described, neighbour, compared, attribute]), questions)
    return selection


def _targets(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Facts that may be asked for, by document: numbers and names of attributes that several entities have."""
    numbers = [fact for group in comparable(facts, 4) for fact in group]
    targets: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in [*numbers, *naming_facts(facts)]:
        targets[fact.document_id].append(fact)
    return dict(targets)


def _unique_descriptions(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Facts by which an entity can be told from all others: a name that no other fact of the attribute contains."""
    values: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in facts:
        values[fact.key].append(fact.text.casefold())
    unique: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in naming_facts(facts):
        containing = [text for text in values[fact.key] if fact.text.casefold() in text]
        if len(containing) == 1 and is_plain_noun(fact.attribute) and fact.text[0].isupper():
            unique[fact.document_id].append(fact)
    return dict(unique)


def _neighbours(
    knowledge: KnowledgeGraph,
    targets: Mapping[str, list[Fact]],
    described_by: Mapping[str, list[Fact]],
    chance: Random,
    seed: int,
) -> Iterator[QAPair]:
    """An attribute of an entity that another one's list names; with `described_by`, that other one is not named."""
    edges = [
        (head, tail, mention, way)
        for head, tail, mention in knowledge.mentions()
        for way in _WAYS
        if _names_one(mention, way) and targets.get(tail) and (not described_by or described_by.get(head))
    ]
    for _ in range(ROUNDS):
        for head, tail, mention, way in spread(
            edges, chance, lambda edge: ((edge[0], edge[3]), edge[1], edge[2].relation)
        ):
            target = _pick(targets[tail], chance)
            if target.attribute == mention.fact.attribute:
                continue
            described = chance.choice(described_by[head]) if described_by else None
            yield _neighbour_question(mention, way, target, described, seed)


def _names_one(mention: Mention, way: str) -> bool:
    """True if the list has one entry with that number or rank, it is this one, and there are words for it."""
    value = shown_value(mention.item)
    return bool(_template(mention, way)) and choose(mention.items, way, value) == mention.item


def _template(mention: Mention, way: str) -> str:
    return _RELATIONS.get(mention.relation, _ANY_RELATION)[_WAYS.index(way)]


def _neighbour_question(mention: Mention, way: str, target: Fact, described: Fact | None, seed: int) -> QAPair:
    head = mention.fact.entity
    hops: list[dict[str, Any]] = []
    facts = [mention.fact, target]
    named = entity_phrase(head)
    if described is not None:
        named = _description(described, "country" if mention.relation in _RELATIONS else "one")
        hops.append({"op": "describe", "row": fact_row(described)})
        facts.insert(0, described)
    where = _template(mention, way).format(
        value=mention.item.shown, head=named, relation=attribute_phrase(mention.fact)
    )
    row = fact_row(mention.fact)
    hops.append({"op": "select", "from": head, "row": row, "by": way, "value": shown_value(mention.item)})
    alias: dict[str, Any] = {"op": "alias", "from": mention.item.name, "to": target.entity}
    if mention.alias is not None:
        alias["row"] = fact_row(mention.alias)
        facts.insert(-1, mention.alias)
    hops.append(alias)
    hops.append({"op": "value", "from": target.entity, "row": fact_row(target)})
    family = "neighbour" if described is None else "described"
    return _pair(_ask(target, where), target, facts, hops, family, seed)


def _comparisons(
    facts: Sequence[Fact], targets: Mapping[str, list[Fact]], chance: Random, seed: int
) -> Iterator[QAPair]:
    """An attribute of whichever of two entities has the larger or smaller figure of another attribute."""
    groups = comparable(facts, 4)
    for _ in range(ROUNDS):
        for group in chance.sample(groups, len(groups)):
            a, b = chance.sample(group, 2)
            assert a.quantity is not None
            assert b.quantity is not None
            if a.quantity.value == b.quantity.value:
                continue
            word, way = chance.choice([("larger", "max"), ("smaller", "min")])
            winner = a if (a.quantity.value > b.quantity.value) == (way == "max") else b
            loser = b if winner is a else a
            choices = [
                fact
                for fact in targets.get(winner.document_id, [])
                if fact.attribute != a.attribute and _differs(fact, targets.get(loser.document_id, []))
            ]
            if not choices:
                continue
            target = _pick(choices, chance)
            where = (
                f"whichever of {entity_phrase(a.entity)} and {entity_phrase(b.entity)} has the {word} figure for "
                f"{attribute_phrase(a)}"
            )
            hops: list[dict[str, Any]] = [
                {"op": "compare", "rows": [fact_row(a), fact_row(b)], "by": way},
                {"op": "value", "from": winner.entity, "row": fact_row(target)},
            ]
            yield _pair(_ask(target, where), target, [a, b, target], hops, "comparison", seed)


def _differs(fact: Fact, others: Sequence[Fact]) -> bool:
    """True if the other entity has the attribute too, with another value: else the comparison would not matter."""
    return any(other.key == fact.key and other.text.casefold() != fact.text.casefold() for other in others)


def _attributes(
    targets: Mapping[str, list[Fact]],
    unique: Mapping[str, list[Fact]],
    countries: set[str],
    chance: Random,
    seed: int,
) -> Iterator[QAPair]:
    """An attribute of the entity that a value describes."""
    for _ in range(ROUNDS):
        for document_id in chance.sample(sorted(unique), len(unique)):
            described = chance.choice(unique[document_id])
            target = _pick(targets[document_id], chance)
            if target.attribute == described.attribute:
                continue
            noun = "country" if document_id in countries else "one"
            hops: list[dict[str, Any]] = [
                {"op": "describe", "row": fact_row(described)},
                {"op": "value", "from": target.entity, "row": fact_row(target)},
            ]
            yield _pair(
                _ask(target, _description(described, noun)), target, [described, target], hops, "attribute", seed
            )


def _pick(facts: Sequence[Fact], chance: Random) -> Fact:
    """A name or a number, each half of the time where both are there (numbers are far more)."""
    names = [fact for fact in facts if fact.quantity is None]
    numbers = [fact for fact in facts if fact.quantity is not None]
    return chance.choice((names or numbers) if chance.random() < NAME_SHARE else (numbers or names))


def _description(fact: Fact, noun: str) -> str:
    """Such as: the country whose capital is Algiers."""
    return f"the {noun} whose {attribute_phrase(fact)} is {fact.text}"


def _ask(target: Fact, where: str) -> str:
    unit = in_unit(target.quantity.unit) if target.quantity else ""
    if is_plain_noun(target.attribute):
        return f"What is the {attribute_phrase(target)} of {where}{unit}?"
    given = "the figure for" if target.quantity else "given as"
    return f"What is {given} {attribute_phrase(target)} of {where}{unit}?"


def _pair(question: str, target: Fact, facts: list[Fact], hops: list[dict[str, Any]], family: str, seed: int) -> QAPair:
    row = fact_row(target)
    return make_pair(
        task_type=TaskType.MULTI_HOP,
        question=question,
        answer=row["value"],
        answer_kind=AnswerKind.NUMBER if target.quantity else AnswerKind.TEXT,
        evidence=joint_evidence(facts),
        proof={"kind": "path", "hops": hops},
        generator=f"multi_hop/{family}",
        seed=seed,
    )
