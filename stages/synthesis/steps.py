"""Steps of a path through the graph that name exactly one thing, found for the whole graph at once.

    forward   (head, relation) has one tail:     "the capital of {x}"
    backward  (relation, tail) has one head:     "the country whose capital is Algiers"
    max, min, nth  one entry of a list value has the largest, the smallest, this number
    vague, rank    a value that is only described, or a place among all (obfuscate.py makes these when a path asks for them)

Each is checked against every triple of the graph. A description by a text counts as unique only if no other entity's text of
that relation holds it as a part, whichever case it is written in. A chain of such steps names one thing, since every link does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from stages.synthesis.knowledge_graph import Ids, KnowledgeGraph
from stages.synthesis.naming import SHARED_LETTERS, is_name
from stages.synthesis.relation_phrases import backward, forward, ranked
from stages.synthesis.triples import SHADOW

WAYS = ("forward", "backward", "max", "min", "nth")
MAX_EVIDENCE_CHARACTERS = 700
MAX_COMPARED_TEXTS = 400  # per relation; more than that are compared whole only
MIN_IDENTIFIER_LETTERS = 4


@dataclass(frozen=True)
class Step:
    """One step: from `source` to `target` (nodes) by triple `row`.

    vague: how obfuscate.py tells the value or the entry (ways vague, rank and nth); None: verbatim.
    """

    way: str
    source: int
    target: int
    row: int
    vague: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Steps:
    """All steps as columns (way: index into WAYS), and an index by target and by source."""

    way: Ids
    source: Ids
    target: Ids
    row: Ids

    def __len__(self) -> int:
        return len(self.way)

    def __getitem__(self, index: int) -> Step:
        return Step(WAYS[self.way[index]], int(self.source[index]), int(self.target[index]), int(self.row[index]))

    @cached_property
    def _by_target(self) -> tuple[Ids, Ids]:
        order = np.argsort(self.target, kind="stable")
        return self.target[order], order

    @cached_property
    def _by_source(self) -> tuple[Ids, Ids]:
        order = np.argsort(self.source, kind="stable")
        return self.source[order], order

    def into(self, node: int) -> Ids:
        """Steps that lead to a node."""
        return _slice(self._by_target, node)

    def out_of(self, node: int) -> Ids:
        """Steps that lead away from a node."""
        return _slice(self._by_source, node)


def _slice(index: tuple[Ids, Ids], node: int) -> Ids:
    keys, order = index
    found: Ids = order[np.searchsorted(keys, node, "left") : np.searchsorted(keys, node, "right")]
    return found


def find_steps(graph: KnowledgeGraph) -> Steps:
    """Every step that has words and names one thing."""
    usable = usable_triples(graph)
    parts = [_forward(graph, usable), _backward(graph, usable), *_ranked(graph, usable)]
    table = pl.concat(parts).sort("row", "way", maintain_order=True)
    columns = {name: table[name].to_numpy().astype(np.int64) for name in ("way", "source", "target", "row")}
    return Steps(**columns)


def usable_triples(graph: KnowledgeGraph) -> pl.DataFrame:
    """Triples with their evidence's length; those that need too much evidence, or have no words, are left out."""
    length = pl.col("evidence").list.eval(pl.element().cast(pl.Int64).diff().gather_every(2, offset=1)).list.sum()
    return graph.triples.with_columns(evidence_characters=length).filter(
        (pl.col("evidence_characters") <= MAX_EVIDENCE_CHARACTERS)
        & (pl.col("rule") != SHADOW)
        & ~pl.col("tail_type").is_in(["import", "alias"])
    )


def _forward(graph: KnowledgeGraph, usable: pl.DataFrame) -> pl.DataFrame:
    # Unique in the whole graph, also against triples that are not usable.
    single = (
        graph.triples.group_by("head_id", "relation_id").agg(n=pl.col("tail_id").n_unique()).filter(pl.col("n") == 1)
    )
    found = usable.join(single, on=["head_id", "relation_id"], how="semi")
    found = _shortest(found, ["head_id", "relation_id", "document_id"])
    words = has_words(found, lambda relation, head, tail: forward(relation, head, tail) is not None)
    return _table(found.filter(words), "forward", "head_id", "tail_id")


def _backward(graph: KnowledgeGraph, usable: pl.DataFrame) -> pl.DataFrame:
    single = (
        graph.triples.group_by("relation_id", "tail_id").agg(n=pl.col("head_id").n_unique()).filter(pl.col("n") == 1)
    )
    found = usable.join(single, on=["relation_id", "tail_id"], how="semi")
    found = found.filter(
        (pl.col("list_end") == 0) & (pl.col("tail_type") != "number") & (pl.col("tail_type") != "cause")
    )
    found = _shortest(found, ["relation_id", "tail_id", "document_id"])
    words = has_words(found, lambda relation, head, _: backward(relation, head) is not None)
    found = found.filter(words)
    columns = found.select("tail_text", "tail_type", "head_name", "head_type").iter_rows()
    good = [_describes(text, kind) and not _names_head(text, name, head) for text, kind, name, head in columns]
    found = found.filter(pl.Series(good, dtype=pl.Boolean))
    contained = _contained(graph, found)
    return _table(found.filter(~pl.col("row").is_in(contained)), "backward", "tail_id", "head_id")


def _describes(text: str, kind: str) -> bool:
    """True if a literal is fit to describe something."""
    if "&" in text and ";" in text:
        return False  # what a careless conversion from HTML left
    if kind == "name":
        return is_name(text) and text[:1].isupper()
    if kind == "text":
        return 4 <= len(text) <= 48 and text[:1].isupper()
    if kind == "identifier":
        return len(text) >= MIN_IDENTIFIER_LETTERS
    if kind == "string":
        return len(text) >= 5 and sum(map(str.isalpha, text)) >= 4 and '"' not in text and "`" not in text
    return True


def _names_head(text: str, name: str, head_type: str) -> bool:
    """True if a description of a country, company or document says its name: "Kingdom of Norway"."""
    if head_type not in ("country", "company", "document", "paper"):
        return False
    value = text.casefold()
    return any(word[:SHARED_LETTERS] in value for word in name.casefold().split() if len(word) >= SHARED_LETTERS)


def _contained(graph: KnowledgeGraph, found: pl.DataFrame) -> list[int]:
    """Rows whose text is a part of another head's text of the same relation."""
    texts = found.filter(
        pl.col("tail_type").is_in(["name", "text"]) & ~pl.col("rule").is_in(["phrase", "named_entity"])
    )
    relations = texts["relation_id"].unique()
    everything: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    others = graph.triples.filter(pl.col("relation_id").is_in(relations.to_list()))
    for relation, head, text in (
        others.select("relation_id", "head_id", pl.col("tail_text").str.to_lowercase())
        .unique(maintain_order=True)
        .iter_rows()
    ):
        everything[relation].append((head, text))
    contained = []
    for row, relation, head, text in texts.select(
        "row", "relation_id", "head_id", pl.col("tail_text").str.to_lowercase()
    ).iter_rows():
        known = everything[relation]
        if len(known) <= MAX_COMPARED_TEXTS and any(other != head and text in value for other, value in known):
            contained.append(row)
    return contained


def _ranked(graph: KnowledgeGraph, usable: pl.DataFrame) -> list[pl.DataFrame]:
    lists = graph.triples.filter(pl.col("list_end") > 0).with_columns(
        value=pl.col("number").cast(pl.Float64, strict=False)
    )
    key = ["head_id", "relation_id"]
    lists = lists.with_columns(
        copies=pl.struct("document_id", "list_start").n_unique().over(key),
        largest=pl.col("value").max().over(key),
        smallest=pl.col("value").min().over(key),
    ).with_columns(twins=pl.len().over([*key, "value"]))
    lists = lists.filter((pl.col("copies") == 1) & (pl.col("twins") == 1)).join(
        usable.select("row"), on="row", how="semi"
    )
    # An entry without an entity of its own cannot be gone on from, but may be an answer.
    parts = []
    for way, index, wanted in (
        ("max", 0, pl.col("value") == pl.col("largest")),
        ("min", 1, pl.col("value") == pl.col("smallest")),
        ("nth", 2, pl.col("value") > 0),
    ):
        found = lists.filter(wanted)
        words = [ranked(relation)[index] is not None for relation in found["relation"].to_list()]
        parts.append(_table(found.filter(pl.Series(words, dtype=pl.Boolean)), way, "head_id", "tail_id"))
    return parts


def _shortest(found: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Of several triples of a document that say the same, the one with the shortest evidence."""
    return found.sort("evidence_characters", "row").unique(key, keep="first", maintain_order=True)


def has_words(found: pl.DataFrame, check: Callable[[str, str, str], bool]) -> pl.Series:
    """For each triple: does `check` hold of its relation, head type and tail type."""
    columns = ("relation", "head_type", "tail_type")
    kinds = found.select(columns).unique(maintain_order=True)
    known = {tuple(row): bool(check(*row)) for row in kinds.iter_rows()}
    return pl.Series([known[row] for row in found.select(columns).iter_rows()], dtype=pl.Boolean)


def _table(found: pl.DataFrame, way: str, source: str, target: str) -> pl.DataFrame:
    return found.select(
        way=pl.lit(WAYS.index(way), dtype=pl.Int64),
        source=pl.col(source).cast(pl.Int64),
        target=pl.col(target).cast(pl.Int64),
        row=pl.col("row").cast(pl.Int64),
    )
