"""Vague descriptions: true of their value, of nothing else in the graph, and proven from the evidence alone."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest
from fact_corpus import country, document, write_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.records import QAPair
from stages.common.shards import SerialExecutor
from stages.common.storage import DocumentStore
from stages.synthesis.config import MultiHopConfig
from stages.synthesis.dates import parse_date
from stages.synthesis.multi_hop import make_questions, read_graph
from stages.synthesis.obfuscate import Obfuscator
from stages.synthesis.path_spread import documents_read, spread_of, vague_kinds
from stages.synthesis.rederive import rederive
from stages.synthesis.rewrite_checks import rewrite_refusal
from stages.synthesis.selection import evidence_text
from stages.synthesis.vague_candidates import of_date, of_number, of_text
from stages.synthesis.vague_values import MONTHS, Reading, holds, may_hold, words_for

NAMES = ["Alfa", "Bravo", "Carlo", "Delta", "Eland", "Fargo", "Golfo", "Hotel"]
CONFIG = {
    "min_questions": 1,
    "min_hops": 2,
    "max_hops": 6,
    "min_distance_tokens": 0,
    "max_evidence_characters": 0,
    "named_entities": False,
}

dates = st.builds(
    lambda day, month, year: f"{day} {MONTHS[month]} {year}",
    st.integers(1, 28),
    st.integers(0, 11),
    st.integers(1500, 2030),
)
years = st.integers(1500, 2030).map(str)
numbers = st.decimals(min_value=Decimal("0.01"), max_value=Decimal("9e7"), places=2).map(lambda n: f"{n.normalize():f}")
units = st.sampled_from(["km", "%", "million tons", "billion dollars", ""])
texts = st.lists(
    st.sampled_from(["National", "Assembly", "Old", "Senate", "of", "River", "Kings"]), min_size=1, max_size=4
).map(" ".join)


def all_of(tiers):
    return [vague for tier in tiers for vague in tier]


@settings(deadline=None)
@given(st.one_of(dates, years))
def test_every_description_of_a_date_holds_for_it_and_leaves_more_than_one_year_or_month_open(date):
    for vague in all_of(of_date(parse_date(date))):
        assert holds(vague, date)
        assert may_hold(vague, Reading(f"{date} (from somewhere)"))
        year = int(parse_date(date)[:4])
        month = MONTHS[(vague["month"] or 1) - 1]
        fits = [y for y in range(year - 120, year + 120) if holds(vague, f"5 {month} {y}")]
        assert year in fits
        assert len(fits) > 1


@given(numbers, units)
def test_every_description_of_a_number_holds_for_it_and_leaves_five_values_open(number, unit):
    places = len(number.partition(".")[2])
    for vague in all_of(of_number(number, unit)):
        assert holds(vague, number, unit)
        if vague["least"] and vague["below"]:
            factor = {"million tons": 10**6, "billion dollars": 10**9}.get(unit, 1)
            width = (Decimal(vague["below"]) - Decimal(vague["least"])) / factor
            assert width >= 5 * Decimal(1).scaleb(-places)
            assert not holds(vague, vague["least"], vague["unit"])  # an edge is in doubt: nothing is described by it
            assert may_hold(vague, Reading(vague["least"]))  # and everything excluded that lies on it


@given(texts)
def test_every_description_of_a_name_holds_for_it_and_might_hold_for_a_text_that_has_the_name_in_it(text):
    for vague in all_of(of_text(text, "legislature name")):
        assert holds(vague, text)
        assert may_hold(vague, Reading(f"formerly the {text}; later (1922) renamed"))
        assert text not in words_for(vague)


@given(st.one_of(dates, years), st.one_of(dates, years))
def test_what_holds_might_hold(one, two):
    for vague in all_of(of_date(parse_date(one))):
        assert may_hold(vague, Reading(two)) or not holds(vague, two)


def test_descriptions_are_english():
    said = [words_for(vague) for vague in all_of(of_date("1962-07-05"))]
    assert "falls in the 1960s" in said
    assert "falls in a year of the second half of the 20th century that ends with the digit 2" in said
    assert "falls in a July of the 20th century" in said
    assert "falls in the years 1900 to 1909" in [words_for(vague) for vague in all_of(of_date("1905"))]
    assert "is between 1 million and 2 million metric tons" in [
        words_for(v) for v in all_of(of_number("1.936", "million metric tons"))
    ]
    assert (
        words_for(all_of(of_text("green, white, red", "national color(s)"))[1])
        == 'lists three entries, the first beginning with "g"'
    )
    assert all_of(of_text("Algiers, El-Biar", "embassy")) == []  # an address is no list


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("4 July 1776 (declared); 3 September 1783 (recognized)", True),
        ("no official date: 927; 1 January 1801", True),  # January might be July for the 927
        ("in the 15th century", True),
        ("12 March 1968", False),
        ("7/4/1999", True),  # whichever of the two numbers is the month
    ],
)
def test_a_tangled_date_is_read_generously(said, fits):
    assert may_hold({"test": "date", "period": [], "digit": "", "month": 7}, Reading(said)) is fits


def world(profiles, tangled=()):
    """Countries with a capital, coastline, date of independence and borders; `tangled` ones say the date at length."""
    made = []
    for name, (capital, coast, date, borders) in sorted(profiles.items()):
        said = (
            f"{date} (declared independence from its neighbour); 4 May 1999 (recognized)" if name in tangled else date
        )
        listed = "; ".join(f"{other} {km} km" for other, km in borders.items() if other != name) or "none"
        made.append(country(name, capital, f"{coast} km", listed, f"\n### Independence\n\n{said}\n"))
    return made


def opened(folder, documents):
    write_documents(folder, documents)
    graph, _ = read_graph(folder, SerialExecutor())
    return graph, DocumentStore([folder / "general.jsonl"])


profile = st.tuples(
    st.sampled_from(["Rabat", "Tunis", "Cairo", "Lagos", "Accra", "Port Louis", "Cape Town"]),
    st.integers(1, 4000),
    dates,
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 900), max_size=4),
)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), profile, min_size=5, max_size=8),
    st.sets(st.sampled_from(NAMES), max_size=1),
    st.integers(0, 9),
)
def test_on_random_graphs_a_description_fits_its_entity_alone_and_a_tampered_value_breaks_the_proof(
    tmp_path_factory, profiles, tangled, seed
):
    graph, store = opened(tmp_path_factory.mktemp("world"), world(profiles, tangled))
    values = {}
    for name, (capital, coast, date, _) in profiles.items():
        values[name] = {"capital": (capital, ""), "coastline": (str(coast), "km"), "independence": (date, "")}
    for qa in make_questions(graph, store, MultiHopConfig(questions=25, **CONFIG), seed).questions:
        assert rederive(qa, store.text_of) == qa.answer
        for index, hop in enumerate(qa.proof["hops"]):
            if (
                "vague" in hop
                and hop["op"] == "describe"
                and hop["row"]["attribute"] in values["Alfa" if "Alfa" in values else min(values)]
            ):
                attribute, entity = hop["row"]["attribute"], hop["row"]["entity"]
                fits = {name for name, said in values.items() if holds(hop["vague"], *said[attribute])}
                assert fits == {entity}
                for other, said in values.items():
                    if other == entity:
                        continue
                    # Proof and evidence tampered with alike: the value no longer satisfies the question's words.
                    value, unit = said[attribute]
                    forged_hop = {**hop, "row": {**hop["row"], "value": value}}
                    shown = f"{value} {unit}".strip()
                    spot = hop["row"]

                    def forged(span, spot=spot, shown=shown):
                        text = store.text_of(span)
                        inside = (
                            span.document_id == spot["document_id"]
                            and span.start <= spot["start"]
                            and spot["end"] <= span.end
                        )
                        if not inside:
                            return text
                        return text[: spot["start"] - span.start] + shown + text[spot["end"] - span.start :]

                    hops = [*qa.proof["hops"][:index], forged_hop, *qa.proof["hops"][index + 1 :]]
                    broken = qa.model_copy(update={"proof": {**qa.proof, "hops": hops}})
                    assert rederive(broken, forged) is None
            if hop["op"] == "rank":
                assert {row["entity"] for row in hop["rows"]} == set(profiles)


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    neighbours = {name: dict(zip(NAMES, (120, 240, 410, 777, 95, 333, 512, 641), strict=True)) for name in NAMES}
    places = ["Rabat", "Tunis", "Cairo", "Lagos", "Accra", "Oslo", "Port Louis", "Cape Town"]
    days = [
        "5 July 1962",
        "9 July 1816",
        "1 January 1901",
        "12 March 1968",
        "3 May 1791",
        "7 June 1905",
        "2 August 1960",
        "8 April 1830",
    ]
    coasts = [998, 4989, 25760, 1448, 66, 853, 3427, 5313]
    profiles = {n: (p, c, d, neighbours[n]) for n, p, c, d in zip(NAMES, places, coasts, days, strict=True)}
    graph, store = opened(tmp_path_factory.mktemp("small"), world(profiles, {"Delta"}))
    made = make_questions(graph, store, MultiHopConfig(questions=150, **CONFIG), 17).questions
    return graph, store, made


def test_most_questions_describe_something_vaguely_and_say_how_far_they_reach(small_world):
    made = small_world[2]
    figures = spread_of(made)
    assert figures["vague"] >= 0.6
    assert set(figures["vague_kinds"]) >= {"attribute", "ordinal", "temporal"}
    single = [qa for qa in made if len(set(documents_read(qa.proof))) == 1]
    assert figures["one_document"] == round(len(single) / len(made), 4)
    assert 0.5 < figures["documents_per_hop"] <= 1
    for qa in made:
        assert set(vague_kinds(qa.proof)) <= set(qa.proof["obfuscation"])


def test_a_text_from_which_no_date_was_read_still_excludes_a_description(small_world):
    """Delta says "12 March 1968 (declared); 4 May 1999 ...": it has no triple, but the 1960s, March and 1999 are not free."""
    graph, store, _ = small_world
    assert graph.triples.filter(
        (graph.triples["relation"] == "independence") & (graph.triples["head_name"] == "Delta")
    ).is_empty()
    obfuscator = Obfuscator(graph, store)
    triples = graph.triples.filter(graph.triples["relation"] == "independence")
    seen = []
    for row, head in triples.select("row", "head_id").iter_rows():
        for seed in range(20):
            step = obfuscator.describe(head, Random(seed))
            if step is not None and step.row == row:
                assert obfuscator.image(step) == {head}
                seen.append(words_for(step.vague))
    assert len(set(seen)) >= 4
    assert not any("1960s" in words or "March" in words or "in the month of May" in words for words in seen)


def test_a_rewrite_must_keep_the_vague_words(small_world):
    qa = next(qa for qa in small_world[2] if any("vague" in hop for hop in qa.proof["hops"]))
    words = next(hop["vague"]["words"] for hop in qa.proof["hops"] if "vague" in hop)
    assert words in qa.question
    changed = qa.model_copy(update={"question": qa.question.replace(words, "is what it is")})
    assert rewrite_refusal(qa, changed) is not None
    assert rederive(changed, evidence_text(qa)) is None
    assert rewrite_refusal(qa, qa) is None


def forged_words(qa: QAPair, index: int, **changes) -> QAPair:
    """The question and its proof say another vague thing, alike."""
    hops = list(qa.proof["hops"])
    old = hops[index]["vague"]
    new = {**old, **changes}
    new["words"] = words_for(new)
    hops[index] = {**hops[index], "vague": new}
    question = qa.question.replace(old["words"], new["words"])
    return qa.model_copy(update={"question": question, "proof": {**qa.proof, "hops": hops}})


def test_words_that_the_value_does_not_satisfy_prove_nothing(small_world):
    _, store, made = small_world
    tried = 0
    for qa in made:
        for index, hop in enumerate(qa.proof["hops"]):
            if hop["op"] == "describe" and hop.get("vague", {}).get("test") == "number":
                tried += 1
                assert rederive(forged_words(qa, index, least="900000", below="1000000"), store.text_of) is None
            if hop["op"] == "describe" and hop.get("vague", {}).get("test") == "date":
                tried += 1
                assert rederive(forged_words(qa, index, period=["decade", 1340]), store.text_of) is None
    assert tried >= 10


def test_places_in_lists_and_groups_are_read_again(small_world):
    _, store, made = small_world
    tried = 0
    for qa in made:
        for index, hop in enumerate(qa.proof["hops"]):
            if hop["op"] == "pick" and "rank" in hop:
                tried += 1
                hops = [*qa.proof["hops"][:index], {**hop, "rank": hop["rank"] + 1}, *qa.proof["hops"][index + 1 :]]
                assert rederive(qa.model_copy(update={"proof": {**qa.proof, "hops": hops}}), store.text_of) is None
    assert tried >= 10


def test_of_a_small_group_the_rank_is_asked_for_with_its_size_and_all_of_it_as_evidence(tmp_path):
    coasts = {"Alfa": 20, "Bravo": 310, "Carlo": 4400, "Delta": 52}
    documents = [country(name, name + "ville", f"{coast} km", "none") for name, coast in coasts.items()]
    documents += [
        document(f"{name} - The World Factbook", "## Land\n\n### Soil\n\n#### Kind\n\nclay\n")
        for name in ("Eland", "Fargo")
    ]
    graph, store = opened(tmp_path, documents)
    made = make_questions(graph, store, MultiHopConfig(questions=60, **CONFIG), 3).questions
    ranks = [
        (qa, hop)
        for qa in made
        for hop in qa.proof["hops"]
        if hop["op"] == "rank" and hop["rows"][0]["attribute"] == "coastline"
    ]
    assert ranks
    for qa, hop in ranks:
        assert "coastline among the four countries for which the documents state one" in qa.question
        assert {item.document_id for item in qa.evidence} >= {
            f"general/{n.lower()}_-_the_world_factbook" for n in coasts
        }
        order = sorted(coasts, key=lambda name: coasts[name], reverse=hop["by"] == "max")
        assert order[hop["rank"] - 1] in [h.get("from") for h in qa.proof["hops"]] or len(qa.proof["hops"]) > 2
        missing = {**hop, "rows": hop["rows"][1:]}
        hops = [missing if other is hop else other for other in qa.proof["hops"]]
        assert rederive(qa.model_copy(update={"proof": {**qa.proof, "hops": hops}}), store.text_of) is None
