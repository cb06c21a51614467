"""A multi-hop question before its evidence is read: words, proof, and the triples it rests on. And what all paradigms share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import polars as pl

from stages.synthesis.knowledge_graph import KnowledgeGraph
from stages.synthesis.naming import is_name
from stages.synthesis.narrative import LETTERS, Narrator, Told
from stages.synthesis.paths import Sampler
from stages.synthesis.relation_phrases import NOUNS, unit_note
from stages.synthesis.steps import WAYS, Step, Steps

MIN_ANSWER_LETTERS = 3
_ENTITY_CODE = re.compile(r"&#?\w+;")  # what a careless conversion from HTML left
MIN_GROUP = 4
NAME_SHARE = 0.5

FORWARD, BACKWARD = WAYS.index("forward"), WAYS.index("backward")

_ANSWER_TYPES = ("number", "date", "name", "identifier", "string", "entity")
_ENTITY_ANSWERS = ("defined in", "base class", "package")


@dataclass(frozen=True)
class Draft:
    """A question to be: `rows` are the triples read (its hops), `links` those that prove a name, `kinds` how entities are described."""

    paradigm: str
    family: str
    domain: str
    question: str
    answer: str
    is_number: bool
    hops: list[dict[str, Any]]
    rows: list[int]
    links: list[int]
    kinds: list[str]

    @property
    def hop_count(self) -> int:
        """Facts that must be joined."""
        return len(set(self.rows))


@dataclass(frozen=True, eq=False)
class Workbench:
    """What every paradigm draws from."""

    graph: KnowledgeGraph
    steps: Steps
    sampler: Sampler
    narrator: Narrator
    max_hops: int

    @cached_property
    def entities(self) -> dict[str, list[int]]:
        """Entities that a last step leads on from, by domain."""
        found: dict[str, set[int]] = {}
        entity, domain = self.graph.nodes["entity"].to_list(), self.graph.nodes["domain"].to_list()
        for node in sorted({int(source) for source in self.steps.source}):
            if entity[node]:
                found.setdefault(domain[node], set()).add(node)
        return {name: sorted(nodes) for name, nodes in sorted(found.items())}

    @cached_property
    def _endings(self) -> tuple[list[bool], list[bool]]:
        """For every step: is its result fit to be an answer, is it a number."""
        columns = ("tail_type", "relation", "tail_text", "rule")
        rows = list(self.graph.triples.select(columns).iter_rows())
        fit, number = [], []
        for way, row in zip(self.steps.way.tolist(), self.steps.row.tolist(), strict=True):
            fit.append(way != BACKWARD and _fit_answer(*rows[row], forward=way == FORWARD))
            number.append(rows[row][0] == "number" and way == FORWARD)
        return fit, number

    def pick_ending(self, entity: int, chance: Random, without: Sequence[str] = ()) -> Step | None:
        """A last step: a name or a number, half of the time each; ways of asking first, then any of its steps."""
        fit, is_number = self._endings
        relations = self.graph.columns["relation_id"]
        excluded = {self.relation_ids[relation] for relation in without if relation in self.relation_ids}
        numbers: list[int] = []
        others: dict[int, list[int]] = {}
        for index in self.steps.out_of(entity).tolist():
            if fit[index] and int(relations[self.steps.row[index]]) not in excluded:
                if is_number[index]:
                    numbers.append(index)
                else:
                    others.setdefault(int(self.steps.way[index]), []).append(index)
        if others and (not numbers or chance.random() < NAME_SHARE):
            return self.steps[chance.choice(others[chance.choice(sorted(others))])]
        return self.steps[chance.choice(numbers)] if numbers else None

    @cached_property
    def relation_ids(self) -> dict[str, int]:
        """Relation -> id."""
        return {relation: index for index, relation in enumerate(self.graph.relations)}

    @cached_property
    def dated_statements(self) -> list[dict[str, Any]]:
        """Dated statements whose year is unique in the graph."""
        return self._named_steps(pl.col("rule") == "statement", FORWARD)

    @cached_property
    def stated_causes(self) -> list[dict[str, Any]]:
        """Stated causes."""
        return list(self.graph.triples.filter(pl.col("tail_type") == "cause").iter_rows(named=True))

    @cached_property
    def dependencies(self) -> dict[int, list[Step]]:
        """Steps back over imports and base classes, by what is depended on."""
        wanted = pl.col("relation").is_in(["imports", "base class"]) & (pl.col("tail_type") == "entity")
        found: dict[int, list[Step]] = {}
        for item in self._named_steps(wanted, BACKWARD):
            step = self.steps[item["step"]]
            found.setdefault(step.source, []).append(step)
        return found

    @cached_property
    def largest_entries(self) -> list[Step]:
        """Steps to the largest entry of a list."""
        return [self.steps[index] for index in range(len(self.steps)) if WAYS[self.steps.way[index]] == "max"]

    def _named_steps(self, wanted: pl.Expr, way: int) -> list[dict[str, Any]]:
        index = pl.DataFrame({"row": self.steps.row, "way": self.steps.way}).with_row_index("step")
        index = index.filter(pl.col("way") == way).drop("way")
        triples = self.graph.triples.with_columns(pl.col("row").cast(pl.Int64)).filter(wanted)
        return list(triples.join(index, on="row", maintain_order="left").iter_rows(named=True))

    def finish(self, told: Told, step: Step) -> tuple[str, bool, str]:
        """Add the last hop; returns the answer, whether it is a number, and the question's unit."""
        triple = self.narrator.triple(step.row)
        told.rows.append(step.row)
        if step.way == "forward":
            row = self.narrator.row(triple)
            told.hops.append({"op": "value", "from": told.name, "row": row})
            is_number = triple["tail_type"] == "number"
            return row["value"], is_number, unit_note(triple["tail_type"], triple["unit"], triple["scale"])
        told.hops.append(self.narrator.select(step, triple, told.name))
        return str(triple["tail_text"]), False, ""

    def noun(self, node: int) -> str:
        """What kind of thing a node is, as a question says it."""
        return NOUNS.get(self.narrator.type(node), "one")

    @cached_property
    def groups(self) -> list[tuple[str, pl.DataFrame]]:
        """Triples that may be compared: one relation, unit and kind of date, one value per entity, four entities or more."""
        forward = pl.DataFrame({"row": self.steps.row[self.steps.way == 0]})
        triples = self.graph.triples.with_columns(pl.col("row").cast(pl.Int64)).join(forward, on="row", how="semi")
        triples = triples.filter(
            pl.col("tail_type").is_in(["number", "date"])
            & (pl.col("number") != "")
            & ~pl.col("relation").str.contains("«")
        )
        triples = triples.filter(pl.col("rule") != "code")
        length = pl.when(pl.col("tail_type") == "date").then(pl.col("number").str.len_chars()).otherwise(0)
        key = ["relation", "unit", "scale", "head_type", "tail_type", "length"]
        grouped = triples.with_columns(length=length).group_by(key, maintain_order=True)
        found = []
        for _, part in grouped:
            columns = part.select("row", "head_id", "number", "tail_type", "relation", "unit", "scale", "head_type")
            if part.height >= MIN_GROUP and part["number"].n_unique() >= MIN_GROUP - 1:
                found.append((str(part["tail_type"][0]), columns))
        return found

    def letters(self) -> list[str]:
        """Fresh letters."""
        return list(LETTERS)


def join_told(parts: Sequence[Told]) -> tuple[list[str], list[dict[str, Any]], list[int], list[int], list[str]]:
    """Sentences, hops, rows, links and kinds of several descriptions, one after the other."""
    return (
        [sentence for told in parts for sentence in told.before],
        [hop for told in parts for hop in told.hops],
        [row for told in parts for row in told.rows],
        [row for told in parts for row in told.links],
        [kind for told in parts for kind in told.kinds],
    )


def _fit_answer(tail_type: str, relation: str, text: str, rule: str, *, forward: bool) -> bool:
    if tail_type not in _ANSWER_TYPES:
        return False
    if forward and tail_type == "entity" and relation not in _ENTITY_ANSWERS:
        return is_name(text) and rule == "heading"
    if (tail_type == "name" or not forward) and not is_name(text):
        return False
    if _ENTITY_CODE.search(text):
        return False
    return sum(map(str.isalnum, text)) >= (1 if tail_type == "number" else MIN_ANSWER_LETTERS)
