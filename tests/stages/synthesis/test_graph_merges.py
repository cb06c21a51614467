"""Every merge of the graph has a row: the rule, both names, and where each of them stands."""

from __future__ import annotations

import polars as pl
from fact_corpus import country, document, starter_documents, write_documents

from stages.common.records import Category
from stages.common.shards import SerialExecutor
from stages.synthesis.merges import MERGE_SCHEMA
from stages.synthesis.multi_hop import read_graph

FILING = """FORM 10-K

For the fiscal year ended September 28, {year}

Commission File Number: 001-36743

{name}

(Exact name of Registrant as specified in its charter)

| Title of each class | Trading symbol(s) | Name of each exchange |
|---|---|---|
| Common Stock, $0.00001 par value | AAPL | {exchange} |
"""
PAPER = """PLoS Biology, {year}. doi:10.1371/journal.pbio.{year}. Licence: Creative Commons Attribution.

## Abstract

Nothing.

## References

1. 1 Sulston JE White JG {title}. Dev Biol 1977 56 110 156
"""
USA = "\n### Short\n\n#### abbreviation\n\nUS or USA\n\n## Economy\n\n### Growth rate\n\n4.0%\n"
DOCUMENTS = [
    country("Algeria", "Algiers", "998 km", "Libya 989 km; USA 3 km", "\n## Economy\n\n### GROWTH RATE\n\n4%\n"),
    country("Libya", "Tripoli", "1,770 km", "Algeria 989 km; the USA 5 km"),
    country("United States", "Washington", "19,924 km", "ALGERIA 3 km; Libya 5 km", USA),
    document("aapl one", FILING.format(year=2023, name="Apple Inc.", exchange="The NASDAQ Market"), Category.PROFESSIONAL),
    document("aapl two", FILING.format(year=2024, name="APPLE INC.", exchange="The Nasdaq Market"), Category.PROFESSIONAL),
    document("Worms one", PAPER.format(year=2004, title="Post-embryonic cell lineages of the worm"), Category.ACADEMIC),
    document("Worms two", PAPER.format(year=2005, title="Postembryonic cell lineages of the worm"), Category.ACADEMIC),
    document("Worms three", PAPER.format(year=2006, title="Post-embryonic Cell Lineages of the Worm"), Category.ACADEMIC),
]  # fmt: skip


def graph_of(folder, documents):
    return read_graph(write_documents(folder, documents), SerialExecutor())[0]


def places(merge, texts):
    """The characters at both places of a merge; an empty text for a name that only a title holds."""
    text = texts[merge["document_id"]][merge["start"] : merge["end"]]
    known = texts[merge["known_document_id"]][merge["known_start"] : merge["known_end"]]
    return " ".join(text.split()), " ".join(known.split())


def test_each_kind_of_merge_has_its_rule_and_both_names_where_they_stand(tmp_path):
    graph = graph_of(tmp_path, DOCUMENTS)
    texts = {item.id: item.text for item in DOCUMENTS}
    told = {
        (m["kind"], m["rule"], m["name"], m["known_as"], *places(m, texts))
        for m in graph.merges.iter_rows(named=True)
        if m["kind"] != "relation"
    }
    assert told == {
        ("entity", "normalised", "Libya", "Libya", "Libya", "Libya"),
        ("entity", "normalised", "ALGERIA", "Algeria", "ALGERIA", "Algeria"),
        ("entity", "normalised", "Algeria", "Algeria", "Algeria", "Algeria"),
        ("entity", "alias", "USA", "United States", "USA", "USA"),
        ("entity", "alias", "the USA", "United States", "the USA", "USA"),
        ("entity", "normalised", "APPLE INC.", "Apple Inc.", "APPLE INC.", "Apple Inc."),
        ("literal", "case", "The Nasdaq Market", "The NASDAQ Market", "The Nasdaq Market", "The NASDAQ Market"),
        ("literal", "same number", "4.0%", "4%", "4.0%", "4%"),
    } | {
        ("entity", rule, title, first, title, first)
        for first in ["Post-embryonic cell lineages of the worm"]
        for rule, title in [
            ("normalised", "Post-embryonic Cell Lineages of the Worm"),
            ("spelling", "Postembryonic cell lineages of the worm"),
        ]
    }  # fmt: skip
    relations = graph.merges.filter(pl.col("kind") == "relation")
    (relation,) = relations.iter_rows(named=True)
    text, known = places(relation, texts)
    assert (relation["name"], relation["known_as"]) == ("growth rate", "GROWTH RATE")
    assert "Growth rate" in text
    assert "GROWTH RATE" in known


def test_nothing_becomes_one_thing_without_a_row(tmp_path):
    """On the starter corpus: wherever two spellings share a node, the graph's own tables say so, and a merge explains it."""
    documents = starter_documents()
    graph = graph_of(tmp_path, documents)
    texts = {item.id: item.text for item in documents}
    assert graph.merges.schema == pl.Schema(MERGE_SCHEMA)
    explained = {(m["entity"], m["name"]) for m in graph.merges.iter_rows(named=True)}
    names = dict(graph.nodes.select("key", "name").iter_rows())
    known = {(m["entity"], m["known_as"]) for m in graph.merges.iter_rows(named=True)}
    spelled = graph.triples.filter(pl.col("rule") != "cover").select("tail", "tail_text").unique()
    several = [
        (key, text)
        for key, text in spelled.iter_rows()
        if names[key] != text and not key.startswith(("module:", "class:", "package:"))
    ]
    assert len(several) >= 2
    assert set(several) <= explained | known
    linked = graph.triples.filter((pl.col("tail_type") == "entity") & pl.col("tail").str.starts_with("doc:"))
    linked = linked.filter(pl.col("rule") != "cover").select("tail", "tail_text").unique()
    assert linked.height >= 20
    assert set(linked.iter_rows()) <= explained
    for merge in graph.merges.iter_rows(named=True):
        text, known_text = places(merge, texts)
        assert text
        assert known_text
        if merge["kind"] != "relation":
            assert text == merge["name"]
            assert merge["rule"] == "alias" or known_text == merge["known_as"]
