"""All triples of a corpus as one graph (paper section 3.1): tables of triples, nodes and merges, and an index to walk on.

    triples  the columns of triples.py and head_id, relation_id, tail_id, link_row (the triple that proves which entity is meant)
    nodes    id, key, name (as a question says it), proof_name (distinct), type, domain
    merges   which spellings were read as which entity, by which rule, on what evidence (clusters.py)

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

from stages.synthesis.clusters import MERGE_SCHEMA, NameClusters, near_spellings, spelling_merges
from stages.synthesis.entities import normalise_name
from stages.synthesis.extraction import Extracted, phrases_of_one_document
from stages.synthesis.relation_phrases import NOUNS
from stages.synthesis.statement_triples import phrase_hash
from stages.synthesis.triples import SHADOW, document_key

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
    triples, works = _merge_works(triples)
    triples = _drop_unknown_code(triples)
    triples = triples.with_row_index("row")
    clusters = _clusters(extracted, triples)
    triples, used = _link_names(triples, clusters)
    triples = _link_rows(triples, clusters)
    nodes, triples, relations = _numbered(triples, extracted)
    merges = pl.concat([clusters.merges(used), works, relation_merges(triples)])
    log.info(
        "graph: %d nodes, %d triples, %d relations, %d merges",
        nodes.height,
        triples.height,
        len(relations),
        merges.height,
    )
    return KnowledgeGraph(triples, nodes, relations, merges)


def cluster_relations(triples: pl.DataFrame) -> pl.DataFrame:
    """Relations that differ in case, blanks or a colon get the spelling that most triples have; `written` keeps their own.

    What quotes a document or a program is left as it is: `DEBUG` and `debug` are two names.
    """
    relation = pl.col("relation")
    quoted = relation.str.contains("[«`|]") | relation.str.contains(r"^(?:default|attribute|constant|import) ")
    folded = relation.str.replace_all(r"\s+", " ").str.strip_chars(" :")
    keyed = triples.with_columns(
        written=relation, cluster=pl.when(quoted).then(relation).otherwise(folded.str.to_lowercase())
    )
    counted = (
        keyed.group_by("cluster", "written").len().sort("cluster", "len", "written", descending=[False, True, False])
    )
    names = counted.unique("cluster", keep="first", maintain_order=True).select("cluster", chosen="written")
    joined = keyed.drop("relation").join(names, on="cluster", how="left", maintain_order="left")
    return joined.rename({"chosen": "relation"}).drop("cluster")


def relation_merges(triples: pl.DataFrame) -> pl.DataFrame:
    """Relations that were written in several ways."""
    found = (
        triples.filter(pl.col("relation") != pl.col("written"))
        .group_by("written", "relation", maintain_order=True)
        .agg(pl.first("document_id"), pl.first("start"), pl.first("end"))
    )
    return found.select(
        pl.col("written").alias("name"),
        pl.format("relation:{}", "relation").alias("entity"),
        pl.lit("normalised relation").alias("rule"),
        pl.col("document_id", "start", "end"),
        pl.format("relation {} is read as {}", "written", "relation").alias("detail"),
    ).cast(pl.Schema(MERGE_SCHEMA))


def _with_unique_phrases(extracted: Extracted) -> pl.DataFrame:
    """Phrases stay only if no other document holds them; what says nothing unique of a document is no description."""
    triples = extracted.triples
    phrases = triples.filter(pl.col("rule") == "phrase")
    alone = phrases_of_one_document(extracted.phrases)
    hashes = np.array([phrase_hash(text) for text in phrases["tail_text"]], dtype=np.uint64)
    where = np.searchsorted(alone, hashes)
    known = (
        (where < len(alone)) & (alone[np.minimum(where, max(len(alone) - 1, 0))] == hashes)
        if len(alone)
        else np.zeros(len(hashes), bool)
    )
    keep = np.ones(triples.height, dtype=bool)
    keep[(triples["rule"] == "phrase").to_numpy()] = known
    return triples.filter(pl.Series(keep))


def _merge_works(triples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Works whose long titles are one letter apart become one."""
    keys = pl.concat([triples["head"], triples["tail"]])
    titles = [key.removeprefix("work:") for key in keys.filter(keys.str.starts_with("work:")).unique()]
    merged = near_spellings(titles)
    mapping = {f"work:{name}": f"work:{first}" for name, first in merged.items()}
    if mapping:
        triples = triples.with_columns(pl.col("head", "tail").replace(mapping))
    return triples, spelling_merges(merged, "work:")


def _drop_unknown_code(triples: pl.DataFrame) -> pl.DataFrame:
    """Code entities that no file defines are bare identifiers (a class of the standard library)."""
    known = triples.filter(pl.col("rule").is_in(["code", SHADOW]))["head"].unique()
    code = pl.col("tail").str.contains("^(?:module|class|function):")
    unknown = code & ~pl.col("tail").is_in(known.to_list())
    imports = pl.col("tail_type") == "import"
    return triples.filter(~(unknown & (imports | (pl.col("relation") == "imports")))).with_columns(
        tail=pl.when(unknown).then(pl.lit("")).otherwise("tail"),
        link=pl.when(unknown).then(pl.lit("")).otherwise("link"),
        tail_type=pl.when(unknown).then(pl.lit("identifier")).otherwise("tail_type"),
    )


def _clusters(extracted: Extracted, triples: pl.DataFrame) -> NameClusters:
    clusters = NameClusters()
    clusters.add_names(
        (name, document_key(document_id)) for document_id, name, kind in extracted.names if kind != "filing"
    )
    companies = triples.filter(pl.col("head_type") == "company").unique("head", maintain_order=True)
    clusters.add_names(companies.select("head_name", "head").iter_rows())
    aliases = triples.filter((pl.col("tail_type") == "alias") | (pl.col("relation") == "trading symbol"))
    for row in aliases.select("head", "tail_text", "document_id", "start", "end", "relation").iter_rows():
        head, name, document_id, start, end, relation = row
        if head.startswith("name:"):
            owner = clusters.entity_of(head.removeprefix("name:"))
            if owner is not None:
                clusters.claim(name, owner, relation.removeprefix("alias: "), document_id, (start, end))
        elif len(name) <= 60 and name[:1].isupper():
            clusters.claim(name, head, "alias", document_id, (start, end))
    return clusters


def _link_names(triples: pl.DataFrame, clusters: NameClusters) -> tuple[pl.DataFrame, list[str]]:
    """Bare names that mean an entity get its key."""
    names = (
        triples.filter((pl.col("tail_type") == "name") & (pl.col("tail") == ""))["tail_text"].unique().sort().to_list()
    )
    found = {name: entity for name in names if (entity := clusters.entity_of(name)) is not None}
    bare = (pl.col("tail_type") == "name") & (pl.col("tail") == "")
    key = pl.col("tail_text").replace_strict(found, default="", return_dtype=pl.String)
    linked = bare & (key != "") & (key != pl.col("head"))
    triples = triples.with_columns(
        tail=pl.when(linked).then(key).otherwise("tail"),
        tail_type=pl.when(linked).then(pl.lit("entity")).otherwise("tail_type"),
    )
    return triples, list(found)


def _link_rows(triples: pl.DataFrame, clusters: NameClusters) -> pl.DataFrame:
    """The row of the triple that proves a link: the file's import of that name, or the alias that the entity's document gives."""
    imports = triples.filter(pl.col("tail_type") == "import").unique(
        ["document_id", "head", "relation"], maintain_order=True
    )
    # The head of a class triple is the class; its file is the first label.
    imports = imports.select(
        "document_id", link=pl.col("relation"), file=pl.col("labels").list.first(), import_row="row"
    )
    triples = triples.with_columns(file=pl.col("labels").list.first())
    triples = triples.join(imports, on=["document_id", "link", "file"], how="left", maintain_order="left")
    aliases = triples.filter(pl.col("tail_type") == "alias").select("document_id", "start", "end", alias_row="row")
    rules = []
    named = triples.filter((pl.col("tail_type") == "entity") & pl.col("rule").is_in(["heading", "list"]))
    for name in named["tail_text"].unique().sort().to_list():
        why = clusters.rule_of(name)
        if why is not None and why[0] == "alias":
            rules.append((name, why[1], why[2], why[3]))
    wanted = pl.DataFrame(
        rules,
        schema={"tail_text": pl.String, "alias_document": pl.String, "alias_start": pl.UInt32, "alias_end": pl.UInt32},
        orient="row",
    )
    aliases = aliases.unique(["document_id", "start", "end"], maintain_order=True)
    wanted = wanted.join(
        aliases,
        left_on=["alias_document", "alias_start", "alias_end"],
        right_on=["document_id", "start", "end"],
        how="left",
        maintain_order="left",
    ).select("tail_text", "alias_row")
    triples = triples.join(wanted, on="tail_text", how="left", maintain_order="left")
    is_entity = (pl.col("tail_type") == "entity") & pl.col("rule").is_in(["heading", "list"])
    link_row = pl.when(is_entity).then(pl.col("alias_row")).otherwise(pl.col("import_row"))
    return triples.with_columns(link_row=link_row.cast(pl.Int64).fill_null(-1)).drop("import_row", "alias_row", "file")


def _numbered(triples: pl.DataFrame, extracted: Extracted) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
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
    nodes = _nodes(triples, extracted)
    ids = nodes.select("key", "id")
    triples = triples.join(ids.rename({"key": "head", "id": "head_id"}), on="head", how="left", maintain_order="left")
    triples = triples.join(ids.rename({"key": "tail", "id": "tail_id"}), on="tail", how="left", maintain_order="left")
    relations = triples["relation"].unique(maintain_order=True).to_list()
    numbers = pl.DataFrame(
        {"relation": relations, "relation_id": range(len(relations))},
        schema={"relation": pl.String, "relation_id": pl.Int64},
    )
    return nodes, triples.join(numbers, on="relation", how="left", maintain_order="left"), relations


def _nodes(triples: pl.DataFrame, extracted: Extracted) -> pl.DataFrame:
    named = pl.DataFrame(
        [(document_key(document_id), name, kind) for document_id, name, kind in extracted.names],
        schema={"key": pl.String, "name": pl.String, "type": pl.String},
        orient="row",
    ).with_columns(key=pl.when(pl.col("type") == "package").then(pl.format("package:{}", "name")).otherwise("key"))
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


def same_name(one: str, two: str) -> bool:
    """True if two spellings of a name differ by nothing that counts."""
    return normalise_name(one) == normalise_name(two)
