"""Obfuscation: entities described so vaguely that only one in the whole graph fits (paper section 3.1).

    temporal       "the country whose independence falls in a July of the 1960s"
    institutional  'the country whose legislature name consists of three words with the initials "N. P. A."'
    attribute      "the country whose coastline is between 900 and 1,000 km", "... lists three entries, the first beginning with ..."
    ordinal        "the country with the second-largest X among the five countries for which the documents state one"
                   (all five are evidence), "the country across the third-longest land border of A" (the list is evidence)

A description is taken only if no other value of the relation in the graph, no text under such a heading of another document of
the kind, and no second value of the entity could satisfy it (`may_hold`, generously read). Where nothing vague is unique the
verbatim descriptions of steps.py stand. Found when a path asks for it, so a large graph costs no more memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from random import Random
from typing import Any

import numpy as np
import polars as pl

from stages.common.storage import DocumentStore
from stages.synthesis.attribute_texts import AttributeTexts, attribute_texts
from stages.synthesis.knowledge_graph import Ids, KnowledgeGraph
from stages.synthesis.relation_phrases import among, ranked, vague_subject, value_kind
from stages.synthesis.steps import Step, has_words, usable_triples
from stages.synthesis.vague_candidates import Tier, of_date, of_number, of_text
from stages.synthesis.vague_values import Reading, Vague, base_number, in_range, initials, may_hold, words_of

RULES = ("heading", "citation", "opening", "cover", "code")
TYPES = ("date", "number", "name", "text", "identifier")
MIN_HEADS = 4  # fewer that have the attribute make it tell by itself
MAX_POPULATION = 1000  # values that each description is compared with; identifiers have an index
RANKED = (3, 6)  # entities of a group whose ranks may be asked for: all of them are evidence
MAX_RANK = 4
TRIES = 4
ATTEMPTS_PER_TIER = 3
KINDS = ("temporal", "institutional", "attribute", "text", "ordinal")


@dataclass(frozen=True)
class Population:
    """Everything that is said of a relation: nodes (-1: a document without a triple), what they say, and an index of identifiers."""

    heads: list[int]
    readings: list[Reading]
    numbers: list[tuple[Decimal, str] | None]
    by_initials: dict[str, set[int]]

    def others(self, vague: Vague, head: int) -> bool:
        """True if another one than `head` could be meant."""
        return any(node != head for node in self.meant(vague))

    def meant(self, vague: Vague) -> Iterator[int]:
        """All that could be meant."""
        if self.by_initials:
            wanted = vague.get("initials", "")
            # A description of another form is not indexed: it counts as ambiguous.
            yield from self.by_initials.get(wanted.casefold(), set()) if wanted else (-1,)
            return
        for head, reading, number in zip(self.heads, self.readings, self.numbers, strict=True):
            if vague["test"] == "number" and number is not None and number[1] == vague["unit"]:
                if in_range(vague, number[0]):
                    yield head
            elif may_hold(vague, reading):
                yield head


class Obfuscator:
    """Vague descriptions of a graph's entities. `documents`: those that the graph was read from."""

    def __init__(self, graph: KnowledgeGraph, documents: DocumentStore) -> None:
        self._graph, self._documents = graph, documents
        self._population = lru_cache(maxsize=512)(self._read_population)
        self._texts_of = lru_cache(maxsize=None)(self._read_texts)
        self._vague = lru_cache(maxsize=20_000)(self._find_vague)
        self._entry = lru_cache(maxsize=20_000)(self._find_entry)
        self._ranked_vague = lru_cache(maxsize=1_000)(self._find_rank)

    @cached_property
    def _rows(self) -> pl.DataFrame:
        """Triples that may describe their head: row, kind (index of KINDS), by head."""
        usable = usable_triples(self._graph).filter(
            pl.col("rule").is_in(RULES)
            & pl.col("tail_type").is_in(TYPES)
            & (pl.col("list_end") == 0)
            & (pl.col("scale") == "")
        )
        usable = usable.filter(pl.col("head_id").n_unique().over("relation_id") >= MIN_HEADS)
        # A number or a date describes only what has no second one.
        one = pl.col("tail_id").n_unique().over("head_id", "relation_id") == 1
        usable = usable.filter(one | (pl.col("tail_type") == "identifier"))
        usable = usable.filter(has_words(usable, lambda *kind: vague_subject(*kind) is not None))
        kinds = usable.select("relation", "tail_type").unique(maintain_order=True)
        names = [value_kind(*kind) for kind in kinds.iter_rows()]
        texts = kinds["tail_type"].is_in(["date", "number"]).to_list()
        number = [
            KINDS.index("text" if name == "attribute" and not plain else name)
            for name, plain in zip(names, texts, strict=True)
        ]
        kinds = kinds.with_columns(kind=pl.Series(number, dtype=pl.Int64))
        found = usable.join(kinds, on=["relation", "tail_type"], how="left", maintain_order="left")
        return pl.concat([found.select("head_id", "row", "kind"), self._groups()]).sort("head_id", "kind", "row")

    def _groups(self) -> pl.DataFrame:
        """Numbers and dates that a few entities have, one each and all different: rows to be ranked."""
        key = ["relation_id", "head_type"]
        triples = self._graph.triples.filter(pl.col("rule") == "heading")
        length = pl.when(pl.col("tail_type") == "date").then(pl.col("number").str.len_chars()).otherwise(0)
        triples = triples.with_columns(length=length)
        same = [pl.col(name).n_unique().over(key) == 1 for name in ("tail_type", "unit", "scale", "length")]
        count = pl.len().over(key)
        each = (pl.col("head_id").n_unique().over(key) == count) & (pl.col("number").n_unique().over(key) == count)
        fit = triples.filter(
            *same,
            each,
            count >= RANKED[0],
            count <= RANKED[1],
            pl.col("tail_type").is_in(["number", "date"]),
            pl.col("list_end") == 0,
        )
        fit = fit.join(usable_triples(self._graph).select("row"), on="row", how="semi", maintain_order="left")
        whole = fit.filter(pl.len().over(key) >= RANKED[0])
        ordinal = pl.lit(KINDS.index("ordinal"), dtype=pl.Int64)
        return whole.select("head_id", "row", kind=ordinal)

    @cached_property
    def _index(self) -> tuple[Ids, Ids, Ids]:
        return tuple(self._rows[name].to_numpy().astype(np.int64) for name in ("head_id", "row", "kind"))  # type: ignore[return-value]

    def describe(self, entity: int, chance: Random, avoid: Set[int] = frozenset()) -> Step | None:
        """A step from a vaguely told value to the entity; each kind as likely as any other. None if a few tries find none."""
        heads, rows, kinds = self._index
        at = slice(int(np.searchsorted(heads, entity, "left")), int(np.searchsorted(heads, entity, "right")))
        present = sorted(set(kinds[at].tolist()))
        tails = self._graph.columns["tail_id"]
        for _ in range(TRIES if present else 0):
            # Dates are few beside numbers: they come first half of the time.
            kind = 0 if present[0] == 0 and chance.random() < 0.5 else chance.choice(present)
            row = int(chance.choice(rows[at][kinds[at] == kind].tolist()))
            source = int(tails[row])
            found = self._ranked_vague(row) if KINDS[kind] == "ordinal" else self._vague(row)
            if found and source not in avoid:
                return Step("rank" if KINDS[kind] == "ordinal" else "vague", source, entity, row, chance.choice(found))
        return None

    def _find_vague(self, row: int) -> Tier:
        """The vaguest descriptions of a triple's head by its value that nothing else satisfies."""
        triple = self._graph.triples.row(row, named=True)
        population = self._population(triple["relation_id"], triple["relation"], triple["head_type"])
        if population is None:
            return []
        kind = value_kind(triple["relation"], triple["tail_type"])
        if triple["tail_type"] == "date":
            tiers = of_date(triple["number"])
        elif triple["tail_type"] == "number":
            tiers = of_number(triple["number"], triple["unit"])
        else:
            tiers = of_text(triple["tail_text"], triple["relation"])
        for tier in tiers:
            alone = [{"kind": kind, **vague} for vague in tier if not population.others(vague, triple["head_id"])]
            if alone:
                return alone
        return []

    def _find_rank(self, row: int) -> Tier:
        """The place of a triple's head in its group, from the nearer end."""
        triple = self._graph.triples.row(row, named=True)
        relation, head_type = triple["relation"], triple["head_type"]
        population = self._population(triple["relation_id"], relation, head_type)
        if population is None or -1 in population.heads:
            return []  # a document of the kind says something that nothing was read from
        group = self._of_relation(triple["relation_id"]).filter(pl.col("head_type") == head_type)
        if len(set(population.heads)) != group.height:
            return []
        values = group["number"].to_list()
        key: Any = Decimal if triple["tail_type"] == "number" else str
        order = sorted(values, key=key, reverse=True).index(triple["number"]) + 1
        by, rank = ("max", order) if order <= (len(values) + 1) // 2 else ("min", len(values) + 1 - order)
        words = among(relation, head_type, triple["tail_type"], by, rank, len(values))
        if words is None or rank > MAX_RANK:
            return []
        rows = group["row"].to_list()
        return [{"kind": "ordinal", "test": "rank", "by": by, "rank": rank, "rows": rows, "words": words}]

    def of_entry(self, step: Step, chance: Random) -> Step:
        """A step to an entry of a list by its number: instead of the number its place, or a range; as it is where neither is unique."""
        found = self._entry(step.source, step.row)
        return Step(step.way, step.source, step.target, step.row, chance.choice(found)) if found else step

    def _find_entry(self, source: int, row: int) -> Tier:
        """Ways to tell an entry of a list from all others of it."""
        entries = self._entries(source, row)
        values = sorted((Decimal(number) for number, _ in entries.values()), reverse=True)
        own, unit = entries[row]
        number = Decimal(own)
        found: Tier = []
        relation = self._graph.relations[int(self._graph.columns["relation_id"][row])]
        # A list of the main partners has no smallest one.
        ends = [("max", values)] + ([("min", values[::-1])] if ranked(relation)[1] is not None else [])
        for by, order in ends:
            rank = order.index(number) + 1
            if (
                len(values) > 2
                and 1 < rank <= MAX_RANK
                and len(set(order[: rank + 1])) == rank + 1
                and rank < len(order)
            ):
                found.append({"kind": "ordinal", "test": "place", "by": by, "rank": rank})
        for tier in of_number(own, unit):
            alone = [
                v
                for v in tier
                if v["least"] and v["below"] and sum(in_range(v, base_number(n, unit)[0]) for n in values) == 1
            ]
            if alone:
                found += [{"kind": "attribute", **alone[0]}]
                break
        return found

    def _entries(self, source: int, row: int) -> dict[int, tuple[str, str]]:
        relation = int(self._graph.columns["relation_id"][row])
        rows = self._graph.rows_from(source, relation).tolist()
        columns = self._graph.triples[rows].select("number", "unit")
        return dict(zip(rows, columns.iter_rows(), strict=True))

    def image(self, step: Step) -> set[int]:
        """Everything that the words of a vague step could mean."""
        assert step.vague is not None
        if step.vague["test"] == "place":
            entries = self._entries(step.source, step.row)
            order = sorted((Decimal(n) for n, _ in entries.values()), reverse=step.vague["by"] == "max")
            wanted = order[step.vague["rank"] - 1]
            return {int(self._graph.columns["tail_id"][row]) for row, (n, _) in entries.items() if Decimal(n) == wanted}
        if step.way == "nth":
            fits = {
                row
                for row, (n, unit) in self._entries(step.source, step.row).items()
                if in_range(step.vague, base_number(Decimal(n), unit)[0])
            }
            return {int(self._graph.columns["tail_id"][row]) for row in fits}
        if step.way == "rank":
            return {step.target} if self._ranked_vague(step.row) else set()
        triple = self._graph.triples.row(step.row, named=True)
        population = self._population(triple["relation_id"], triple["relation"], triple["head_type"])
        return set(population.meant(step.vague)) if population is not None else set()

    @cached_property
    def _by_relation(self) -> tuple[Ids, Ids]:
        relations = self._graph.columns["relation_id"]
        order = np.argsort(relations, kind="stable")
        return relations[order], order

    def _of_relation(self, relation_id: int) -> pl.DataFrame:
        """The triples of a relation, in order."""
        keys, order = self._by_relation
        return self._graph.triples[
            order[np.searchsorted(keys, relation_id, "left") : np.searchsorted(keys, relation_id, "right")]
        ]

    def _read_population(self, relation_id: int, relation: str, head_type: str) -> Population | None:
        """All that the graph and headings of other documents of the kind say; None where that is too much to compare with."""
        found = self._of_relation(relation_id)
        if found["tail_type"].is_in(["identifier"]).all():
            by_initials: dict[str, set[int]] = {}
            for head, text in found.select("head_id", "tail_text").iter_rows():
                by_initials.setdefault(initials(words_of(text)).casefold(), set()).add(head)
            return Population([], [], [], by_initials)
        if found.height > MAX_POPULATION:
            return None
        columns = found.select("head_id", "tail_text", "tail_type", "number", "unit").iter_rows()
        said = [
            (head, Reading(text), base_number(Decimal(number), unit) if kind == "number" else None)
            for head, text, kind, number, unit in columns
        ]
        if (found["rule"] == "heading").any():
            known = set(found["document_id"])
            for document_id, text in self._texts_of(head_type).said(relation, self._documents):
                if document_id not in known:
                    said.append((-1, Reading(text), None))
        heads, readings, numbers = zip(*said, strict=True)
        return Population(list(heads), list(readings), list(numbers), {})

    def _read_texts(self, head_type: str) -> AttributeTexts:
        nodes = self._graph.nodes.filter((pl.col("type") == head_type) & pl.col("key").str.starts_with("doc:"))
        ids = [key.removeprefix("doc:") for key in nodes["key"]]
        return attribute_texts([document_id for document_id in ids if document_id in self._documents], self._documents)
