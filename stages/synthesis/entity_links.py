"""Which entity a name means: works told apart by title, heads that a model read, bare names in lists and headings.

    (Algeria) --border--> "USA"      becomes  (Algeria) --border--> doc:general/united_states, since that document says "US or USA"

Every link is a join over columns. link_row is the row of the triple that proves a link which the text does not show by itself.
"""

from __future__ import annotations

import polars as pl

from stages.synthesis.clusters import NameClusters, near_spellings

# Heads that a model read (knowledge_graph_llm.py) have keys of this prefix until a document's own subject claims the name.
SAID = "said:"
# Kinds of a model's heads that may be what a document or filing is about; others of that name are something else.
_FITTING = {
    "country": ["place"],
    "company": ["organisation"],
    "paper": ["work of art"],
    "document": ["person", "organisation", "place", "building", "event", "law", "work of art", "product", "group"],
}
_MODEL_RULES = ("normalised", "legal suffix")  # an alias would need a proof of its own for the head
_PROVED_BY_ALIAS = ("heading", "list", "model")


def merge_works(triples: pl.DataFrame) -> pl.DataFrame:
    """Works whose long titles are one letter apart become one."""
    keys = pl.concat([triples["head"], triples["tail"]])
    titles = keys.filter(keys.str.starts_with("work:")).unique().str.strip_prefix("work:")
    mapping = {f"work:{name}": f"work:{first}" for name, first in near_spellings(titles).items()}
    return triples.with_columns(pl.col("head", "tail").replace(mapping)) if mapping else triples


def name_clusters(names: pl.DataFrame, triples: pl.DataFrame) -> NameClusters:
    """The claims of documents' subjects, of companies on the covers of filings, and of the aliases that documents give."""
    clusters = NameClusters()
    # A filing is named by its company and period; a bare name in a text is no Python package ("click").
    subjects = names.filter(~pl.col("type").is_in(["filing", "package"]))
    clusters.add_names(subjects.with_columns(entity=pl.format("doc:{}", "document_id")))
    companies = triples.filter(pl.col("head_type") == "company").unique("head", keep="first", maintain_order=True)
    clusters.add_names(companies.select(name="head_name", entity="head", document_id="document_id", **said_at()))
    aliases = triples.filter((pl.col("tail_type") == "alias") | (pl.col("relation") == "trading symbol"))
    aliases = aliases.select("document_id", "start", "end", name="tail_text", entity="head")
    clusters.add_aliases(
        aliases.filter((pl.col("name").str.len_chars() <= 60) & pl.col("name").str.contains(r"^\p{Lu}"))
    )
    return clusters


def said_at() -> dict[str, pl.Expr]:
    """Where a triple's head is named: the first span of its evidence (a cover's line, a model's quote)."""
    return {"start": pl.col("evidence").list.get(0), "end": pl.col("evidence").list.get(1)}


def link_heads(triples: pl.DataFrame, names: pl.DataFrame, clusters: NameClusters) -> pl.DataFrame:
    """Heads that a model read become the entity that alone claims their name, if it is of a fitting type; the rest claim theirs.

    Where several kinds share a name ("Lincoln", a person and a building), or a document is about another thing of that name,
    the kind becomes part of how questions say it.
    """
    said = triples.filter(pl.col("head").str.starts_with(SAID))
    if said.is_empty():
        return triples
    heads = said.unique("head", keep="first", maintain_order=True).with_columns(spoken=spoken())
    subjects = names.select(entity=pl.format("doc:{}", "document_id"), type="type")
    found = clusters.resolve(heads.filter(pl.col("spoken").str.contains(r"^\p{Lu}"))["spoken"])
    found = found.filter(pl.col("rule").is_in(_MODEL_RULES)).join(
        subjects, on="entity", how="left", maintain_order="left"
    )
    found = found.with_columns(type=pl.coalesce("type", pl.col("entity").str.extract("^([a-z]+):")))
    fitting = pl.DataFrame(
        {"type": list(_FITTING), "head_type": list(_FITTING.values())},
        schema={"type": pl.String, "head_type": pl.List(pl.String)},
    ).explode("head_type")
    known = (
        heads.select("head", "spoken", "head_type")
        .join(found.select(spoken="written", to="entity", type="type"), on="spoken", maintain_order="left")
        .join(fitting, on=["type", "head_type"], how="semi", maintain_order="left")
        .select("head", "to", to_type="type")
    )
    new = heads.join(known, on="head", how="anti", maintain_order="left")
    shared = clusters.claimed(new["head_name"]) | new["head_name"].str.to_lowercase().is_duplicated()
    clusters.add_unclaimed(new.filter(~shared).select("document_id", name="head_name", entity="head", **said_at()))
    new = new.filter(shared).select("head", to_name=pl.format("{} ({})", "head_name", "head_type"))
    triples = triples.join(known, on="head", how="left", maintain_order="left")
    triples = triples.join(new, on="head", how="left", maintain_order="left")
    return triples.with_columns(
        head=pl.coalesce("to", "head"),
        head_type=pl.coalesce("to_type", "head_type"),
        head_name=pl.coalesce("to_name", "head_name"),
    ).drop("to", "to_type", "to_name")


def spoken() -> pl.Expr:
    """What a document calls the head of a model's triple: its first label; else the head's name."""
    return pl.coalesce(pl.col("labels").list.first().str.replace_all(r"\s+", " "), "head_name")


def bare_names(triples: pl.DataFrame) -> pl.Series:
    """The names among the tails that may mean an entity."""
    return triples.filter(_is_bare())["tail_text"]


def _is_bare() -> pl.Expr:
    return (pl.col("tail_type") == "name") & (pl.col("tail") == "")


def link_names(triples: pl.DataFrame, resolved: pl.DataFrame) -> pl.DataFrame:
    """Bare names that mean an entity get its key; `resolved` is what NameClusters.resolve says of them."""
    to = resolved.select(tail_text="written", to="entity")
    triples = triples.join(to, on="tail_text", how="left", maintain_order="left")
    linked = _is_bare() & pl.col("to").is_not_null() & (pl.col("to") != pl.col("head"))
    return triples.with_columns(
        tail=pl.when(linked).then("to").otherwise("tail"),
        tail_type=pl.when(linked).then(pl.lit("entity")).otherwise("tail_type"),
    ).drop("to")


def link_rows(triples: pl.DataFrame, resolved: pl.DataFrame) -> pl.DataFrame:
    """The row of the triple that proves a link: the file's import of that name, or the alias that the entity's document gives."""
    imports = triples.filter(pl.col("tail_type") == "import").unique(
        ["document_id", "head", "relation"], keep="first", maintain_order=True
    )
    # The head of a class triple is the class; its file is the first label.
    imports = imports.select(
        "document_id", link=pl.col("relation"), file=pl.col("labels").list.first(), import_row="row"
    )
    triples = triples.with_columns(file=pl.col("labels").list.first())
    triples = triples.join(imports, on=["document_id", "link", "file"], how="left", maintain_order="left")
    aliases = triples.filter(pl.col("tail_type") == "alias").select("document_id", "start", "end", alias_row="row")
    aliases = aliases.unique(["document_id", "start", "end"], keep="first", maintain_order=True)
    wanted = resolved.filter(pl.col("rule") == "alias").join(
        aliases, on=["document_id", "start", "end"], how="left", maintain_order="left"
    )
    triples = triples.join(
        wanted.select("alias_row", tail_text="written"), on="tail_text", how="left", maintain_order="left"
    )
    by_name = (pl.col("tail_type") == "entity") & pl.col("rule").is_in(_PROVED_BY_ALIAS)
    link_row = pl.when(by_name).then(pl.col("alias_row")).otherwise(pl.col("import_row"))
    return triples.with_columns(link_row=link_row.cast(pl.Int64).fill_null(-1)).drop("import_row", "alias_row", "file")
