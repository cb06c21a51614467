"""A multi-hop question before its evidence is read: words, proof, and the triples it rests on. And what all paradigms share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import polars as pl

from stages.synthesis.knowledge_graph import Ids, KnowledgeGraph
from stages.synthesis.naming import is_name
from stages.synthesis.narrative import LETTERS, Narrator, Told
from stages.synthesis.paths import Sampler
from stages.synthesis.relation_phrases import NOUNS, unit_note
from stages.synthesis.steps import WAYS, Step, Steps

MIN_ANSWER_LETTERS = 3
_ENTITY_CODE = re.compile(r"&#?\w+;")  # what a careless conversion from HTML left
MIN_GROUP = 4
NAME_SHARE = 0.5

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]

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
        sources = (
            self.graph.nodes[np.unique(self.steps.source)]
            .filter("entity")
            .select("domain", pl.col("id").cast(pl.Int64))
        )
        grouped = sources.sort("domain", "id").group_by("domain", maintain_order=True).agg("id")
        return dict(grouped.iter_rows())

    @cached_property
    def _endings(self) -> tuple[Flags, Flags]:
        """For every step: is its result fit to be an answer, is it a number."""
        forward = self.steps.way == FORWARD
        columns = self.graph.triples.select("tail_type", "relation", "tail_text", "rule")[self.steps.row]
        columns = columns.with_columns(forward=pl.Series(forward))
        # Texts are judged once however many triples say them.
        kinds = columns.unique(maintain_order=True)
        judged = (
            _fit_answer(kind, relation, text, rule, forward=way)
            for kind, relation, text, rule, way in kinds.iter_rows()
        )
        kinds = kinds.with_columns(fit=pl.Series(judged, dtype=pl.Boolean))
        fit = columns.join(kinds, on=columns.columns, how="left", maintain_order="left")["fit"].to_numpy()
        number = (columns["tail_type"] == "number").to_numpy()
        return fit & (self.steps.way != BACKWARD), number & forward

    def pick_ending(
        self, entity: int, chance: Random, without: Sequence[str] = (), beside: Sequence[int] = ()
    ) -> Step | None:
        """A last step: a name or a number, half of the time each; ways of asking first, then any of its steps.

        beside: rows of the question's other facts. An ending that stands in a document with none of them is preferred.
        """
        fit, is_number = self._endings
        steps = self.steps.out_of(entity)
        excluded = [self.relation_ids[relation] for relation in without if relation in self.relation_ids]
        relations = self.graph.columns["relation_id"][self.steps.row[steps]]
        steps = steps[fit[steps] & ~np.isin(relations, excluded)]
        apart = self.sampler.elsewhere(self.steps.row[steps], beside)
        if apart.any():
            steps = steps[apart]
        numbers, others = steps[is_number[steps]], steps[~is_number[steps]]
        if len(others) and (not len(numbers) or chance.random() < NAME_SHARE):
            ways = self.steps.way[others]
            way = chance.choice(sorted(set(ways.tolist())))
            return self.sampler.obfuscated(self.steps[chance.choice(others[ways == way].tolist())], chance)
        return self.steps[chance.choice(numbers.tolist())] if len(numbers) else None

    @cached_property
    def relation_ids(self) -> dict[str, int]:
        """Relation -> id."""
        return {relation: index for index, relation in enumerate(self.graph.relations)}

    @cached_property
    def dated_statements(self) -> pl.DataFrame:
        """Dated statements whose year is unique in the graph, and the step that leads on from each."""
        return self._with_steps(pl.col("rule") == "statement", FORWARD)

    @cached_property
    def stated_causes(self) -> pl.DataFrame:
        """Stated causes."""
        return self.graph.triples.filter(pl.col("tail_type") == "cause")

    @cached_property
    def dependencies(self) -> Ids:
        """Steps (their numbers) back over imports and base classes."""
        wanted = pl.col("relation").is_in(["imports", "base class"]) & (pl.col("tail_type") == "entity")
        return self._with_steps(wanted, BACKWARD)["step"].to_numpy().astype(np.int64)

    @cached_property
    def largest_entries(self) -> Ids:
        """Steps (their numbers) to the largest entry of a list."""
        return np.flatnonzero(self.steps.way == WAYS.index("max")).astype(np.int64)

    def _with_steps(self, wanted: pl.Expr, way: int) -> pl.DataFrame:
        """The wanted triples that a step of one way reads, with its number."""
        index = pl.DataFrame({"row": self.steps.row, "way": self.steps.way}).with_row_index("step")
        index = index.filter(pl.col("way") == way).drop("way")
        triples = self.graph.triples.with_columns(pl.col("row").cast(pl.Int64)).filter(wanted)
        return triples.join(index, on="row", maintain_order="left")

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
        told.kinds.append(self.narrator.kind(step, triple, literal=False))
        return str(triple["tail_text"]), False, ""

    def noun(self, node: int) -> str:
        """What kind of thing a node is, as a question says it."""
        return NOUNS.get(self.narrator.type(node), "one")

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[pl.DataFrame]]:
        """By kind (number, date) and domain: triples that may be compared, one per entity, four entities or more.

        Of a group they share relation, unit and, if dates, their form.
        """
        forward = pl.DataFrame({"row": self.steps.row[self.steps.way == FORWARD]})
        triples = self.graph.triples.with_columns(pl.col("row").cast(pl.Int64)).join(forward, on="row", how="semi")
        triples = triples.filter(
            pl.col("tail_type").is_in(["number", "date"])
            & (pl.col("number") != "")
            & ~pl.col("relation").str.contains("«")
            & (pl.col("rule") != "code")
        )
        length = pl.when(pl.col("tail_type") == "date").then(pl.col("number").str.len_chars()).otherwise(0)
        key = ["relation", "unit", "scale", "head_type", "tail_type", "length"]
        triples = triples.with_columns(length=length).unique([*key, "head_id"], keep="first", maintain_order=True)
        large = (pl.len().over(key) >= MIN_GROUP) & (pl.col("number").n_unique().over(key) >= MIN_GROUP - 1)
        found: dict[tuple[str, str], list[pl.DataFrame]] = {}
        for _, part in triples.filter(large).group_by(key, maintain_order=True):
            columns = part.select("row", "head_id", "number", "tail_type", "relation", "unit", "scale", "head_type")
            domain = self.narrator.domain(int(part["head_id"][0]))
            found.setdefault((str(part["tail_type"][0]), domain), []).append(columns)
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
