"""The knowledge graph: typed triples with spans, clusters that say why, names that two claim, and triples of a model."""

from __future__ import annotations

import json

import polars as pl
import pytest
from fact_corpus import country, document, write_documents
from hypothesis import given
from hypothesis import strategies as st

from stages.common.config import NO_ENDPOINT
from stages.common.records import Category, Dropped
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply
from stages.common.shards import SerialExecutor
from stages.common.storage import read_records
from stages.synthesis import multi_hop
from stages.synthesis.clusters import NameClusters, near_spellings, without_legal_suffix
from stages.synthesis.code_names import import_target
from stages.synthesis.config import MultiHopStage
from stages.synthesis.dates import parse_date
from stages.synthesis.knowledge_graph_llm import excerpt_spans
from stages.synthesis.multi_hop import read_graph

USA = "\n### Short\n\n#### abbreviation\n\nUS or USA\n"
COUNTRIES = [
    country("Algeria", "Algiers", "998 km", "Libya 989 km; Morocco 1,941 km; USA 3 km"),
    country("Morocco", "Rabat", "2,945 km", "Algeria 1,941 km; Spain 18.5 km"),
    country("United States", "Washington", "19,924 km", "Canada 8,891 km; Algeria 3 km", USA),
    country("Libya", "Tripoli", "1,770 km", "Algeria 989 km; Egypt 1,115 km"),
]
PAPER = """PLoS Biology, 2004. doi:10.1371/journal.pbio.0020334. Licence: Creative Commons Attribution.

## Abstract

Vulval fates were described by Peter Sulston of the Lineage Institute. Growth of the larvae declined due to lack of food.

## References

1. 1 Sulston JE White JG Post-embryonic cell lineages of the nematode worm. Dev Biol 1977 56 110 156
2. 2 FranzenJL 2000b Der sechste Messel-Primate (Mammalia, Primates, Notharctidae). Senckenbergiana lethaea 80(1) 289 303
"""
FILING = """FORM 10-K

For the fiscal year ended September 28, 2024

Commission File Number: 001-36743

Apple Inc.

(Exact name of Registrant as specified in its charter)

| California | 94-2404110 |
|---|---|
| (State or other jurisdiction | (I.R.S. Employer |

| Title of each class | Trading symbol(s) | Name of each exchange |
|---|---|---|
| Common Stock, $0.00001 par value | AAPL | The Nasdaq Stock Market |
"""


def graph_of(folder, documents):
    return read_graph(write_documents(folder, documents), SerialExecutor())[0]


def said(graph, *columns):
    return set(graph.triples.select(columns).iter_rows())


def test_entries_join_documents_through_names_and_aliases(tmp_path):
    graph = graph_of(tmp_path, COUNTRIES)
    borders = graph.triples.filter(graph.triples["rule"] == "list")
    joined = {
        (h, t, n) for h, t, n in borders.select("head_name", "tail", "number").iter_rows() if t.startswith("doc:")
    }
    libya, algeria, morocco, usa = (f"doc:{COUNTRIES[i].id}" for i in (3, 0, 1, 2))
    assert joined == {
        ("Algeria", libya, "989"), ("Algeria", morocco, "1941"), ("Algeria", usa, "3"),
        ("Morocco", algeria, "1941"), ("United States", algeria, "3"), ("Libya", algeria, "989"),
    }  # fmt: skip
    merged = {(m["name"], m["entity"], m["rule"]) for m in graph.merges.to_dicts()}
    assert ("USA", usa, "alias") in merged
    assert ("Libya", libya, "normalised") in merged


def test_a_name_that_two_documents_claim_joins_neither(tmp_path):
    twin = country("America", "Springfield", "5 km", "Canada 2 km; Mexico 3 km", USA)
    graph = graph_of(tmp_path, [*COUNTRIES, twin])
    usa = graph.triples.filter((graph.triples["tail_text"] == "USA") & (graph.triples["rule"] == "list"))
    assert not any(tail.startswith("doc:") for tail in usa["tail"])


def test_every_tail_is_the_text_of_its_span(tmp_path):
    documents = [
        *COUNTRIES,
        document("Lineages", PAPER, Category.ACADEMIC),
        document("aapl", FILING, Category.PROFESSIONAL),
    ]
    graph = graph_of(tmp_path, documents)
    texts = {item.id: item.text for item in documents}
    for triple in graph.triples.iter_rows(named=True):
        text = texts[triple["document_id"]]
        assert " ".join(text[triple["start"] : triple["end"]].split()) == triple["tail_text"]
        quotes = [text[a:b] for a, b in zip(triple["evidence"][::2], triple["evidence"][1::2], strict=True)]
        assert all(any(label in quote for quote in quotes) for label in triple["labels"])
        assert any(
            a <= triple["start"] and triple["end"] <= b
            for a, b in zip(triple["evidence"][::2], triple["evidence"][1::2], strict=True)
        )


def test_papers_give_journal_year_doi_references_and_stated_causes(tmp_path):
    graph = graph_of(tmp_path, [document("Lineages", PAPER, Category.ACADEMIC)])
    found = said(graph, "head_name", "relation", "tail_text")
    assert {
        ("Lineages", "journal", "PLoS Biology"),
        ("Lineages", "year of publication", "2004"),
        ("Lineages", "DOI", "10.1371/journal.pbio.0020334"),
        ("Lineages", "reference 1", "Post-embryonic cell lineages of the nematode worm"),
        ("Post-embryonic cell lineages of the nematode worm", "year of publication", "1977"),
        ("Post-embryonic cell lineages of the nematode worm", "surname of the first author", "Sulston"),
        ("Der sechste Messel-Primate (Mammalia, Primates, Notharctidae)", "year of publication", "2000"),
        ("Lineages", "cause of «Growth of the larvae declined»", "lack of food"),
    } <= found


def test_a_filing_speaks_of_its_company(tmp_path):
    graph = graph_of(tmp_path, [document("aapl", FILING, Category.PROFESSIONAL)])
    found = said(graph, "head", "relation", "tail_text")
    assert {
        ("company:apple inc", "trading symbol", "AAPL"),
        ("company:apple inc", "exchange", "The Nasdaq Stock Market"),
        ("company:apple inc", "jurisdiction", "California"),
        ("company:apple inc", "commission file number", "001-36743"),
        ("company:apple inc", "10-K of September 28, 2024", "September 28, 2024"),
    } <= found


def test_a_phrase_that_a_document_without_a_subject_holds_describes_no_other(tmp_path):
    text = "It came of the Alliance for Progress and of the Treaty of Farsund, as was said.\n\n" + "Nothing else. " * 30
    notes = document("Clerk notes", text)
    nameless = document("<b>1</b>", "They signed the Treaty of Farsund at last. " * 20)
    code = document("tool", "# file: tool/a.py\n# as the Alliance for Progress has it\nX = 1\n", Category.CODE)
    code = code.model_copy(update={"format": "python"})

    def phrases(folder, others):
        graph = graph_of(tmp_path / folder, [notes, *others])
        return set(graph.triples.filter(graph.triples["rule"] == "phrase")["tail_text"])

    assert phrases("alone", []) == {"Alliance for Progress", "Treaty of Farsund"}
    assert phrases("nameless", [nameless]) == {"Alliance for Progress"}
    assert phrases("code", [code]) == {"Treaty of Farsund"}


def test_dates_are_whole_or_nothing():
    assert parse_date("5 July 1962") == "1962-07-05"
    assert parse_date("May 25, 1961") == "1961-05-25"
    assert parse_date("April 2029") == "2029-04"
    assert parse_date("1822") == "1822"
    assert parse_date("31 February 2000") is None
    assert parse_date("5 July 1962 (from France)") is None


def test_imports_lead_to_files():
    assert import_target("a/b/c.py", "exc", 1) == "a/b/exc"
    assert import_target("a/b/c.py", "exc", 2) == "a/exc"
    assert import_target("a/b/c.py", "", 1) == "a/b"
    assert import_target("c.py", "x", 3) == ""
    assert import_target("a.py", "x.y", 0) == "x/y"


def claims(rows):
    """Names of entities as NameClusters takes them."""
    table = pl.DataFrame(rows, schema={"name": pl.String, "entity": pl.String}, orient="row")
    return table.with_columns(document_id=pl.lit("d"), start=pl.lit(0), end=pl.lit(0))


def test_spellings_are_merged_by_rule_and_claims_of_two_are_not():
    clusters = NameClusters()
    clusters.add_names(
        claims(
            [("Apple Inc.", "company:apple"), ("Côte d'Ivoire", "doc:ci"), ("Georgia", "doc:1"), ("Georgia", "doc:2")]
        )
    )
    clusters.add_aliases(claims([("AAPL", "company:apple"), ("Apple", "company:apple")]))
    clusters.add_unclaimed(claims([("georgia", "said:place:georgia"), ("Nils Berg", "said:person:nils berg")]))
    asked = ["APPLE", "cote d’ivoire", "Georgia", "AAPL", "NILS BERG", "", "Peru"]
    found = clusters.resolve(pl.Series(asked)).select("written", "entity", "rule").rows()
    assert set(found) == {
        ("APPLE", "company:apple", "legal suffix"),  # the first rule that says so, not the alias
        ("cote d’ivoire", "doc:ci", "normalised"),
        ("AAPL", "company:apple", "alias"),
        ("NILS BERG", "said:person:nils berg", "normalised"),
    }
    assert clusters.claimed(pl.Series(["GEORGIA", "Peru"])).to_list() == [True, False]
    assert without_legal_suffix("inc") == "inc"


def test_long_titles_one_letter_apart_are_one_and_numbers_never_are():
    assert near_spellings(["statistical mechanics of worms", "statisticalmechanics of worms"]) == {
        "statisticalmechanics of worms": "statistical mechanics of worms"
    }
    assert near_spellings(["report of the year 2001", "report of the year 2002"]) == {}
    assert near_spellings(["niger", "nigeria"]) == {}
    assert near_spellings([]) == {}


def one_edit_apart(one, two):
    """By trying every edit."""
    letters = sorted(set(one + two))
    edits = {one[:i] + new + one[j:] for i in range(len(one) + 1) for j in (i, i + 1) for new in ("", *letters)}
    return two in edits


@given(st.lists(st.text(alphabet="ab", min_size=16, max_size=19), max_size=8, unique=True), st.data())
def test_near_spellings_find_every_pair_and_no_other(names, data):
    if names:
        word = data.draw(st.sampled_from(names))
        place = data.draw(st.integers(0, len(word) - 1))
        names = [*names, word[:place] + word[place + 1 :], word[:place] + "b" + word[place:]]
    merged = near_spellings(names)
    assert all(one_edit_apart(first, later) and first < later for later, first in merged.items())
    kept = sorted({name for name in names if len(name) >= 16} - set(merged))
    assert not any(one_edit_apart(one, two) for index, two in enumerate(kept) for one in kept[:index])


@given(st.lists(st.text(alphabet="abc ", min_size=16, max_size=24), max_size=8))
def test_near_spellings_always_lead_to_a_name_that_is_kept(keys):
    merged = near_spellings(keys)
    assert not set(merged) & set(merged.values())


def test_a_model_adds_what_the_text_says_and_nothing_else(tmp_path):
    text = (
        "Harbour notes.\n\nThe lighthouse of Farsund was built by Nils Berg. " + "More is not known of it here. " * 20
    )
    folder = write_documents(tmp_path / "documents", [document("Farsund", text), *COUNTRIES])
    quote = "The lighthouse of Farsund was built by Nils Berg."
    good = {
        "head": "lighthouse of Farsund",
        "head_type": "building",
        "relation": "was built by",
        "tail": "Nils Berg",
        "quote": quote,
    }
    lies = [
        {**good, "quote": "Farsund lies on the moon."},
        {**good, "tail": "Ole Lie"},
        {"head": 5},
        {**good, "relation": "X\nY"},
    ]

    def script(request):
        return (
            json.dumps({"triples": [good, *lies]})
            if "Harbour" in request["messages"][1]["content"]
            else "no JSON at all"
        )

    with ScriptedChatServer(script) as server:
        writer = NO_ENDPOINT.model_copy(update={"model": "m", "base_url": server.base_url})
        stage = MultiHopStage.model_validate(
            {
                "generator": {
                    "questions": 20, "min_questions": 1, "min_hops": 2, "max_hops": 3, "min_distance_tokens": 0,
                    "max_evidence_characters": 0, "named_entities": False,
                },
                "writer": writer.model_dump(),
                "seed": 17,
            }
        )  # fmt: skip
        out = tmp_path / "out"
        multi_hop.run(stage, {"documents": folder}, out, tmp_path / "state", lambda step, metrics: None)
    dropped = {
        d.reason: d.record.get("count")
        for d in read_records(out / "dropped.jsonl", Dropped)
        if d.reason.startswith("model_")
    }
    assert dropped == {
        "model_malformed": 4,
        "model_malformed_triple": 2,
        "model_not_in_quote": 1,
        "model_quote_not_in_document": 1,
    }
    assert json.loads((out / "graph.json").read_text())["rules"]["model"] == 1


def test_a_broken_endpoint_costs_triples_and_nothing_else(tmp_path):
    folder = write_documents(tmp_path / "documents", COUNTRIES)
    with ScriptedChatServer(lambda request: ScriptedReply(status=400, body=b"no")) as server:
        writer = NO_ENDPOINT.model_copy(update={"model": "m", "base_url": server.base_url})
        stage = MultiHopStage.model_validate(
            {
                "generator": {
                    "questions": 10, "min_questions": 1, "min_hops": 2, "max_hops": 3, "min_distance_tokens": 0,
                    "max_evidence_characters": 0, "named_entities": False,
                },
                "writer": writer.model_dump(),
                "seed": 17,
            }
        )  # fmt: skip
        out = tmp_path / "out"
        counts = multi_hop.run(stage, {"documents": folder}, out, tmp_path / "state", lambda step, metrics: None)
    assert counts["questions"] == 10
    assert {d.reason for d in read_records(out / "dropped.jsonl", Dropped) if d.reason.startswith("model_")} == {
        "model_refused"
    }


@given(st.text(alphabet="ab \n.", max_size=20_000))
def test_excerpts_lie_inside_the_text(text):
    assert all(0 <= start <= end <= len(text) for start, end in excerpt_spans(text))


@pytest.mark.slow
def test_named_entities_describe_a_document_only_if_no_other_holds_the_name(tmp_path):
    """Also where the pipeline does not look: beyond the beginning of a long document."""
    pytest.importorskip("spacy")
    notes = document("Notes of a clerk", "Sam Rayburn met General Electric in Paris. " * 20)
    late = document("A long list", "nothing of note. " * 5000 + "\n\nThe letters of General Electric are lost.\n")
    graph, _ = read_graph(write_documents(tmp_path, [notes, late]), SerialExecutor(), named_entities=True)
    found = graph.triples.filter(graph.triples["rule"] == "named_entity")
    assert set(found.select("document_id", "tail_text").iter_rows()) == {(notes.id, "Sam Rayburn")}
