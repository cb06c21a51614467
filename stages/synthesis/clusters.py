"""Entity and relation clustering: which spellings mean one thing, by rules. merges.py has a row for every merge they make.

Rules, in this order; a spelling that two entities claim belongs to neither:
  normalised    case, accents, punctuation, a leading "the", "S." for "South"
  legal suffix  "Apple Inc." and "Apple"
  alias         the entity's own document gives the name ("US or USA", a short form, a trading symbol)
  spelling      titles of works (16 letters and more) one letter apart, digits equal
Relations are clustered by case and punctuation alone: "Net sales" and "Revenue" are not the same to an accountant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import polars as pl

from stages.synthesis.entities import normalise_name

# name, entity (its key), rule, and where the entity's document says the name (0, 0: in its title alone).
CLAIM_SCHEMA: dict[str, Any] = {
    "name": pl.String,
    "entity": pl.String,
    "rule": pl.String,
    "document_id": pl.String,
    "start": pl.UInt32,
    "end": pl.UInt32,
}

MIN_SPELLING_LETTERS = 16
MAX_BLOCK = 200  # names that share half of their letters; more of them than this are not compared
_SUFFIXES = frozenset(
    [
        "inc",
        "incorporated",
        "corp",
        "corporation",
        "co",
        "company",
        "companies",
        "ltd",
        "limited",
        "llc",
        "plc",
        "lp",
        "ag",
        "sa",
        "nv",
        "gmbh",
        "group",
        "holdings",
        "holding",
    ]
)
_DIGITS = re.compile(r"[0-9]+")


def without_legal_suffix(normalised: str) -> str:
    """The name "apple inc" becomes "apple"; a name that is nothing but suffixes stays."""
    words = normalised.split()
    while len(words) > 1 and words[-1] in _SUFFIXES:
        words.pop()
    return " ".join(words)


class NameClusters:
    """Claims of entities to spellings, as columns; the first rule by which an entity claims a spelling counts."""

    def __init__(self) -> None:
        self._claims = pl.DataFrame(schema={**CLAIM_SCHEMA, "normalised": pl.String})

    def add_names(self, names: pl.DataFrame) -> None:
        """Names of entities (columns of CLAIM_SCHEMA without `rule`), and the same without their legal suffix."""
        named = _with_normalised(names.with_columns(rule=pl.lit("normalised")))
        bare = named.with_columns(
            rule=pl.lit("legal suffix"),
            normalised=_mapped(named["normalised"], without_legal_suffix),
        )
        self._add(named, bare.filter(bare["normalised"] != named["normalised"]))

    def add_aliases(self, aliases: pl.DataFrame) -> None:
        """Other names that the entities' own documents give, in the same columns."""
        self._add(_with_normalised(aliases.with_columns(rule=pl.lit("alias"))))

    def add_unclaimed(self, names: pl.DataFrame) -> None:
        """Names as `add_names`, but only those that nobody has claimed: what a model reads takes no name from a document."""
        named = _with_normalised(names.with_columns(rule=pl.lit("normalised")))
        self._add(named.join(self._claims, on="normalised", how="anti", maintain_order="left"))

    def _add(self, *parts: pl.DataFrame) -> None:
        table = pl.concat(
            [self._claims, *(part.select(self._claims.columns).cast(self._claims.schema) for part in parts)]
        )
        table = table.filter(pl.col("normalised") != "")
        self._claims = table.unique(["normalised", "entity"], keep="first", maintain_order=True)

    def resolve(self, names: pl.Series) -> pl.DataFrame:
        """Those of the names that mean one entity, each once: `written` (the name), and the columns of its claim."""
        alone = self._claims.filter(pl.len().over("normalised") == 1)
        written = names.unique().sort().rename("written").to_frame()
        written = written.with_columns(normalised=_mapped(written["written"], normalise_name))
        return written.join(alone, on="normalised", how="inner", maintain_order="left").drop("normalised")

    def claimed(self, names: pl.Series) -> pl.Series:
        """For each name whether any entity claims it."""
        return _mapped(names, normalise_name).is_in(self._claims["normalised"].implode())


def _with_normalised(names: pl.DataFrame) -> pl.DataFrame:
    return names.with_columns(normalised=_mapped(names["name"], normalise_name))


def _mapped(texts: pl.Series, function: Any) -> pl.Series:
    """A function of text over a column, called once for each distinct text."""
    distinct = texts.unique()
    done = pl.DataFrame(
        {"text": distinct, "done": pl.Series([function(text) for text in distinct], dtype=pl.String)},
        schema={"text": pl.String, "done": pl.String},
    )
    return texts.rename("text").to_frame().join(done, on="text", how="left", maintain_order="left")["done"]


def near_spellings(names: Iterable[str]) -> dict[str, str]:
    """Long normalised names one letter apart -> the first of them.

    One edit leaves the first or the last half of a name as it is, so names are compared within blocks that share a half,
    found by a join: the time grows with the number of names, not with its square.
    """
    table = pl.DataFrame({"name": pl.Series(list(names), dtype=pl.String)}).unique()
    size = pl.col("name").str.len_chars()
    table = table.filter(size >= MIN_SPELLING_LETTERS).with_columns(
        digits=pl.col("name").str.extract_all("[0-9]+").list.join(" ")
    )
    halves = []
    for half in (size // 2, (size - 1) // 2):
        for side, part in (("first", pl.col("name").str.head(half)), ("last", pl.col("name").str.tail(half))):
            block = pl.format("{}|{}|{}|{}", pl.lit(side), half, "digits", part)
            halves.append(table.select("name", block=block))
    blocks = pl.concat(halves).unique().filter(pl.len().over("block").is_between(2, MAX_BLOCK))
    pairs = blocks.join(blocks, on="block", suffix="_later").filter(pl.col("name") < pl.col("name_later"))
    merged: dict[str, str] = {}
    for first, later in pairs.select("name", "name_later").unique().sort("name_later", "name").iter_rows():
        if first not in merged and later not in merged and _one_letter_apart(first, later):
            merged[later] = first
    return merged


def _one_letter_apart(one: str, two: str) -> bool:
    """True if one substitution, insertion or deletion turns one into the other."""
    if abs(len(one) - len(two)) > 1:
        return False
    shared = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return (
        one[shared + 1 :] == two[shared + (len(one) == len(two)) :]
        if len(one) >= len(two)
        else one[shared:] == two[shared + 1 :]
    )


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
