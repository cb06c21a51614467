"""A row for every merge of the graph: which two spellings were read as one thing, by which rule, and where each of them stands.

    entity    "USA" in Algeria's border list is read as "United States", by the alias that the latter's own document gives
    relation  "Capital" is read as "capital"
    literal   "4.0%" is the number of "4%", "PLOS Medicine" the text of "PLoS Medicine"

One row per (what it became, spelling), with the first place of that spelling and the number of documents that write it so; all by
joins over columns. What Python's own rules resolve (imports, base classes) is a reference with a proof row, not a merge.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from stages.synthesis.entities import normalise_name
from stages.synthesis.entity_links import said_at, spoken
from stages.synthesis.triples import SHADOW

# kind:      entity, relation, literal
# rule:      of clusters.py; normalised (relation); same number, same date, case (literal)
# name:      as written at document_id[start:end], in so many documents; a relation: its triple's evidence, from first to last span;
#            a head that a model read: the quote that names it
# entity:    the key of what it became
# known_as:  the other name; it, or the alias that leads to it, stands at known_*; known_end 0: in the document's title alone
MERGE_SCHEMA: dict[str, Any] = {
    "kind": pl.String,
    "rule": pl.String,
    "name": pl.String,
    "document_id": pl.String,
    "start": pl.UInt32,
    "end": pl.UInt32,
    "documents": pl.UInt32,
    "entity": pl.String,
    "known_as": pl.String,
    "known_document_id": pl.String,
    "known_start": pl.UInt32,
    "known_end": pl.UInt32,
    "detail": pl.String,
}

_PLACE = ("document_id", "start", "end")
_LITERALS = {"text": "case", "number": "same number", "date": "same date"}


def merges_of(triples: pl.DataFrame, names: pl.DataFrame, resolved: pl.DataFrame) -> pl.DataFrame:
    """All merges, in MERGE_SCHEMA, sorted. `resolved`: NameClusters.resolve of the names that were looked up."""
    found = pl.concat([_entity_merges(triples, names, resolved), _literal_merges(triples), _relation_merges(triples)])
    return found.sort("kind", "entity", "name")


def _entity_merges(triples: pl.DataFrame, names: pl.DataFrame, resolved: pl.DataFrame) -> pl.DataFrame:
    tails = triples.filter((pl.col("tail_type") == "entity") & ~pl.col("rule").is_in(["code", SHADOW, "cover"]))
    heads = triples.filter(pl.col("rule").is_in(["cover", "model"]))
    tails = tails.select(*_PLACE, entity="tail", name="tail_text")
    name = pl.when(pl.col("rule") == "model").then(spoken()).otherwise("head_name")
    heads = heads.select("document_id", entity="head", name=name, **said_at()).select(tails.columns)
    subjects = names.select(*_PLACE, "name", entity=pl.format("doc:{}", "document_id")).select(tails.columns)
    known = pl.concat([subjects, heads, tails]).unique("entity", keep="first", maintain_order=True)
    spellings = _spellings(pl.concat([heads, tails]), known, "entity")
    resolved = resolved.select("entity", "rule", name="written", **{f"by_{part}": pl.col(part) for part in _PLACE})
    found = spellings.join(resolved, on=["entity", "name"], how="left", maintain_order="left")
    is_alias = pl.col("rule") == "alias"
    same_title = pl.format("work:{}", pl.col("name").map_elements(normalise_name, return_dtype=pl.String))
    is_spelling = pl.col("entity").str.starts_with("work:") & (same_title != pl.col("entity"))
    return found.with_columns(
        pl.when(is_alias).then(f"by_{part}").otherwise(f"known_{part}").alias(f"known_{part}") for part in _PLACE
    ).pipe(
        _merges,
        kind="entity",
        rule=pl.when(is_spelling).then(pl.lit("spelling")).otherwise(pl.col("rule").fill_null("normalised")),
    )


def _literal_merges(triples: pl.DataFrame) -> pl.DataFrame:
    kind = pl.col("tail").str.extract("^(text|number|date):")
    written = triples.filter((pl.col("tail_type") != "entity") & kind.is_not_null())
    written = written.select(*_PLACE, entity="tail", name="tail_text")
    known = written.unique("entity", keep="first", maintain_order=True)
    found = _spellings(written, known, "entity").filter(pl.col("name") != pl.col("known_as"))
    rule = pl.col("entity").str.extract("^([a-z]+):").replace_strict(_LITERALS, return_dtype=pl.String)
    return _merges(found, kind="literal", rule=rule)


def _relation_merges(triples: pl.DataFrame) -> pl.DataFrame:
    evidence = pl.col("evidence")
    place = {"start": evidence.list.min(), "end": evidence.list.max()}
    written = triples.select("document_id", entity=pl.format("relation:{}", "relation"), name="written", **place)
    kept = written.filter(pl.col("entity") == pl.format("relation:{}", "name"))
    known = kept.unique("entity", keep="first", maintain_order=True)
    other = written.filter(pl.col("entity") != pl.format("relation:{}", "name"))
    return _merges(_spellings(other, known, "entity"), kind="relation", rule=pl.lit("normalised"))


def _spellings(written: pl.DataFrame, known: pl.DataFrame, key: str) -> pl.DataFrame:
    """Each (key, name) that is not just the known name at home: its first place, its documents, and the known one."""
    known = known.select(key, known_as="name", **{f"known_{part}": pl.col(part) for part in _PLACE})
    found = written.join(known, on=key, how="inner", maintain_order="left")
    at_home = (pl.col("name") == pl.col("known_as")) & (pl.col("document_id") == pl.col("known_document_id"))
    return (
        found.filter(~at_home)
        .group_by(key, "name", maintain_order=True)
        .agg(
            *(pl.first(part) for part in _PLACE),
            pl.first("known_as", *(f"known_{part}" for part in _PLACE)),
            documents=pl.col("document_id").n_unique(),
        )
    )


def _merges(found: pl.DataFrame, kind: str, rule: pl.Expr) -> pl.DataFrame:
    table = found.with_columns(
        kind=pl.lit(kind), rule=rule, detail=pl.format("'{}' is read as '{}'", "name", "known_as")
    )
    return table.select(list(MERGE_SCHEMA)).cast(pl.Schema(MERGE_SCHEMA))
