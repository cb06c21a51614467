"""All triples of a corpus as one graph (paper section 3.1): tables of triples, nodes and merges, and an index to walk on.

    triples  the columns of triples.py and head_id, relation_id, tail_id, link_row (the triple that proves which entity is meant)
    nodes    id, key, name (as a question says it), proof_name (distinct), type, domain
    merges   which spellings were read as one thing, by which rule, and where each stands (merges.py)

Everything is columns: a graph of millions of triples is a few hundred megabytes. Nodes are entities and literals alike, so
"whose capital is Algiers" is one step backwards from the literal.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from stages.synthesis.clusters import cluster_relations
from stages.synthesis.entity_links import bare_names, link_heads, link_names, link_rows, merge_works, name_clusters
from stages.synthesis.extracted import Extracted, phrases_of_one_document
from stages.synthesis.merges import merges_of
from stages.synthesis.relation_phrases import NOUNS
from stages.synthesis.statement_triples import phrase_hash
from stages.synthesis.triples import SHADOW

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]

_DOMAINS = {
    "country": "country profiles",
    "paper": "papers",
    "work": "papers",
    "filing": "filings",
    "company": "filings",
    "package": "code",
    "module": "code",
    "class": "code",
    "function": "code",
}


_DESCRIBING = ("phrase", "named_entity")


@dataclass(frozen=True)
class KnowledgeGraph:
    """The graph. Tables are in the order of the documents, ids are row numbers of their tables."""

    triples: pl.DataFrame
    nodes: pl.DataFrame
    relations: list[str]
    merges: pl.DataFrame = field(repr=False)

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """The integer columns as arrays."""
        return {
            name: self.triples[name].to_numpy().astype(np.int64)
            for name in ("head_id", "relation_id", "tail_id", "link_row")
        }

    @cached_property
    def _forward(self) -> tuple[Ids, Ids]:
        return self._index(self.columns["head_id"])

    @cached_property
    def _backward(self) -> tuple[Ids, Ids]:
        return self._index(self.columns["tail_id"])

    def _index(self, nodes: Ids) -> tuple[Ids, Ids]:
        keys = nodes * len(self.relations) + self.columns["relation_id"]
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def rows_from(self, head: int, relation: int) -> Ids:
        """Triples (head, relation, anything)."""
        return self._rows(self._forward, head, relation)

    def rows_to(self, relation: int, tail: int) -> Ids:
        """Triples (anything, relation, tail)."""
        return self._rows(self._backward, tail, relation)

    def _rows(self, index: tuple[Ids, Ids], node: int, relation: int) -> Ids:
        keys, order = index
        key = node * len(self.relations) + relation
        rows: Ids = order[np.searchsorted(keys, key, "left") : np.searchsorted(keys, key, "right")]
        return rows

    def tails(self, head: int, relation: int) -> set[int]:
        """Everything that the graph says the head has."""
        return {int(node) for node in self.columns["tail_id"][self.rows_from(head, relation)]}

    def heads(self, relation: int, tail: int) -> set[int]:
        """Everything that the graph says has the tail."""
        return {int(node) for node in self.columns["head_id"][self.rows_to(relation, tail)]}


def build_graph(extracted: Extracted) -> KnowledgeGraph:
    """Link names to entities, cluster spellings, number nodes and relations."""
    triples = _with_unique_phrases(extracted)
    triples = merge_works(triples)
    triples = _drop_unknown_code(triples)
    triples = triples.with_row_index("row")
    clusters = name_clusters(extracted.names, triples)
    triples = link_heads(triples, extracted.names, clusters)
    resolved = clusters.resolve(bare_names(triples))
    triples = link_names(triples, resolved)
    triples = link_rows(triples, resolved)
    nodes, triples, relations = _numbered(triples, extracted.names)
    merges = merges_of(triples, extracted.names, resolved)
    log.info(
        "graph: %d nodes, %d triples, %d relations, %d merges",
        nodes.height,
        triples.height,
        len(relations),
        merges.height,
    )
    return KnowledgeGraph(triples, nodes, relations, merges)


def _with_unique_phrases(extracted: Extracted) -> pl.DataFrame:
    """Phrases and named entities stay only if no other document holds them; others would describe no document alone.

    The hashes count every capitalised phrase of every document, so a name that the pipeline has overlooked elsewhere counts too.
    """
    triples = extracted.triples.with_row_index("row")
    describing = triples.filter(pl.col("rule").is_in(_DESCRIBING)).select("row", "tail_text")
    texts = describing.select(pl.col("tail_text").unique())
    hashes = np.fromiter((phrase_hash(text) for text in texts["tail_text"]), dtype=np.uint64, count=texts.height)
    texts = texts.with_columns(hash=pl.Series(hashes))
    alone = pl.DataFrame({"hash": phrases_of_one_document(extracted.phrases)}, schema={"hash": pl.UInt64})
    known = texts.join(alone, on="hash", how="semi")
    gone = describing.join(known, on="tail_text", how="anti")
    return triples.join(gone, on="row", how="anti", maintain_order="left").drop("row")


def _drop_unknown_code(triples: pl.DataFrame) -> pl.DataFrame:
    """Code entities that no file defines are bare identifiers (a class of the standard library)."""
    known = triples.filter(pl.col("rule").is_in(["code", SHADOW]))["head"].unique().implode()
    code = pl.col("tail").str.contains("^(?:module|class|function):")
    unknown = code & ~pl.col("tail").is_in(known)
    imports = pl.col("tail_type") == "import"
    return triples.filter(~(unknown & (imports | (pl.col("relation") == "imports")))).with_columns(
        tail=pl.when(unknown).then(pl.lit("")).otherwise("tail"),
        link=pl.when(unknown).then(pl.lit("")).otherwise("link"),
        tail_type=pl.when(unknown).then(pl.lit("identifier")).otherwise("tail_type"),
    )


def _numbered(triples: pl.DataFrame, names: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    text = pl.col("tail_text")
    literal = (
        pl.when(pl.col("tail_type") == "number")
        .then(pl.format("number:{} {} {}", "number", "unit", "scale"))
        .when(pl.col("tail_type") == "date")
        .then(pl.format("date:{}", "number"))
        .when(pl.col("tail_type").is_in(["identifier", "string"]))
        .then(pl.format("{}:{}", "tail_type", text))
        .otherwise(pl.format("text:{}", text.str.to_lowercase()))
    )
    triples = cluster_relations(triples).with_columns(
        tail=pl.when(pl.col("tail") == "").then(literal).otherwise("tail"),
    )
    nodes = _nodes(triples, names)
    ids = nodes.select("key", "id")
    triples = triples.join(ids.rename({"key": "head", "id": "head_id"}), on="head", how="left", maintain_order="left")
    triples = triples.join(ids.rename({"key": "tail", "id": "tail_id"}), on="tail", how="left", maintain_order="left")
    relations = triples["relation"].unique(maintain_order=True).to_list()
    numbers = pl.DataFrame(
        {"relation": relations, "relation_id": range(len(relations))},
        schema={"relation": pl.String, "relation_id": pl.Int64},
    )
    return nodes, triples.join(numbers, on="relation", how="left", maintain_order="left"), relations


def _nodes(triples: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    is_package = pl.col("type") == "package"
    key = pl.when(is_package).then(pl.format("package:{}", "name")).otherwise(pl.format("doc:{}", "document_id"))
    named = names.select("name", "type", key=key).select("key", "name", "type")
    heads = triples.select(key="head", name="head_name", type="head_type")
    tails = triples.select(key="tail", name="tail_text", type="tail_type")
    nodes = pl.concat([named, heads, tails]).unique("key", keep="first", maintain_order=True)
    # What only ever is a tail ("package:click") still has a type in its key.
    kind = pl.col("key").str.extract(r"^(package|module|class|function|work|company):")
    nodes = nodes.with_columns(type=pl.coalesce(kind, "type"))
    entity = pl.col("type").is_in(list(NOUNS))
    local = pl.col("key").str.replace(r"^(?:module|class|function):", "")
    code = pl.col("type").is_in(["module", "class", "function"])
    return (
        nodes.with_columns(
            proof_name=pl.when(code).then(local).otherwise("name"),
            entity=entity,
            domain=pl.col("type").replace_strict(_DOMAINS, default="texts", return_dtype=pl.String),
        )
        .with_row_index("id")
        .with_columns(pl.col("id").cast(pl.Int64))
    )
