from __future__ import annotations

from fact_corpus import country, document
from hypothesis import given
from hypothesis import strategies as st

from stages.common.records import Category
from stages.synthesis.corpus import read_corpus
from stages.synthesis.entities import entity_of, normalise_name
from stages.synthesis.facts import heading_facts, name_attribute
from stages.synthesis.lists import choose, parse_list

AREA = """## Geography

### Area

#### total

7,741,220 sq km

#### land

7,682,300 sq km

### Coastline

25,760 km

### Exports

#### Exports 2024

$425.16 billion (2024 est.)

#### note

note: in current dollars

### Background

First line of a long text.

Second paragraph.
"""


def facts_of(body):
    doc = document("Australia - The World Factbook", body)
    dropped = []
    return doc, {(f.attribute, f.period): f for f in heading_facts(doc, "Australia", dropped)}, dropped


def test_a_heading_path_with_one_short_value_is_a_fact():
    doc, facts, _ = facts_of(AREA)
    assert set(facts) == {("area (total)", ""), ("area (land)", ""), ("coastline", ""), ("exports", "2024")}
    land = facts["area (land)", ""]
    assert doc.text[land.start : land.end] == "7,682,300 sq km"
    assert land.quantity.value == 7682300
    assert [item.quote.splitlines()[0] for item in land.evidence] == ["### Area"]
    assert land.evidence[-1].end >= land.end


def test_a_label_repeated_in_the_value_is_skipped():
    _, facts, _ = facts_of("## A\n\n### Water\n\n#### improved: urban\n\nurban: 98.6% of population (2022 est.)\n")
    assert facts["water (improved: urban)", ""].text == "98.6% of population"


def test_one_path_with_two_values_is_ambiguous_and_with_equal_values_is_not():
    twice = "## A\n\n### Rank\n\n#### now\n\n5 km\n\n## B\n\n### Rank\n\n#### now\n\n{}\n"
    _, facts, dropped = facts_of(twice.format("6 km"))
    assert facts == {}
    assert [d.reason for d in dropped] == ["ambiguous_attribute"]
    _, facts, dropped = facts_of(twice.format("5 km"))
    assert set(facts) == {("rank (now)", "")}
    assert dropped == []


def test_code_is_no_heading():
    _, facts, _ = facts_of("## A\n\n```\n## B\n5 km\n```\n")
    assert facts == {}


def test_attributes_are_named_as_a_question_would():
    assert name_attribute(["Exports", "Exports 2024"]) == ("exports", "2024")
    assert name_attribute(["GDP (official exchange rate)"]) == ("GDP (official exchange rate)", "")
    assert name_attribute(["Health expenditure", "Health expenditure (as % of GDP)"]) == (
        "health expenditure (as % of GDP)",
        "",
    )
    assert name_attribute(["Capital", "name"]) == ("capital", "")
    assert name_attribute(["Gini Index", "Gini Index 2018"]) == ("Gini Index", "2018")


def test_the_entity_is_the_title_before_the_dash_or_the_registrant():
    assert entity_of(document("Libya - The World Factbook", "")).name == "Libya"
    assert entity_of(document("europe/ee.json - The World Factbook", "")) is None
    assert entity_of(document("C&ocirc - The World Factbook", "")) is None
    cover = "FORM 10-K\n\nFor the fiscal year ended September 28, 2024\n\nApple Inc.\n\n(Exact name of Registrant as specified in its charter)\n"
    filing = document("aapl-10K-2024", cover, Category.PROFESSIONAL)
    entity = entity_of(filing)
    assert entity.name == "Apple Inc. (10-K, September 28, 2024)"
    assert entity.evidence.quote == "Apple Inc."
    assert filing.text[entity.evidence.start : entity.evidence.end] == "Apple Inc."


def test_names_are_compared_without_accents_case_and_short_forms():
    assert normalise_name("S. Korea") == normalise_name("south Korea")
    assert normalise_name("The Netherlands") == normalise_name("netherlands")
    assert normalise_name("Côte d'Ivoire") == normalise_name("Cote d Ivoire")
    assert normalise_name("North Korea") != normalise_name("South Korea")


def test_two_documents_of_one_name_are_both_left_out(tmp_path):
    from fact_corpus import write_documents

    one = country("Chile", "Santiago", "6,435 km", "Peru 168 km; Bolivia 942 km")
    two = one.model_copy(update={"id": "general/chile_again"})
    other = country("Peru", "Lima", "2,414 km", "Chile 168 km; Bolivia 1,212 km")
    corpus = read_corpus(write_documents(tmp_path, [one, two, other]))
    assert {fact.entity for fact in corpus.facts} == {"Peru"}
    assert [d.reason for d in corpus.dropped].count("shared_entity") == 2


def test_list_values_are_parsed_whole_or_not_at_all():
    items = parse_list("Libya 989 km; Mali 1,359 km (2,475 km with X); Saint-Louis 6 km")
    assert [(item.name, str(item.quantity.value), item.shown) for item in items] == [
        ("Libya", "989", "989 km"),
        ("Mali", "1359", "1,359 km"),
        ("Saint-Louis", "6", "6 km"),
    ]
    assert [item.name for item in parse_list("China 37%, Japan 16%, S. Korea 6% (2023)")] == [
        "China",
        "Japan",
        "S. Korea",
    ]
    lakes = parse_list(
        "Lago Buenos Aires (shared with Chile) - 2,240 sq km; Lago Viedma - 1,560 sq km; Nahuel: 550 sq km"
    )
    assert [item.name for item in lakes] == ["Lago Buenos Aires (shared with Chile)", "Lago Viedma", "Nahuel"]
    assert [item.quantity.value for item in lakes] == [2240, 1560, 550]
    assert parse_list("Libya 989 km; Mali") is None
    assert parse_list("English 72%, Mandarin 2.7 km") is None
    assert parse_list("Libya 989 km") is None


def test_a_tie_names_nobody():
    items = parse_list("Argentina 942 km; Brazil 3,403 km; Chile 942 km")
    assert choose(items, "min") is None
    assert choose(items, "value", "942") is None
    assert choose(items, "max").name == "Brazil"


@given(st.text(alphabet="#\n 15.,%()kmab:|`-", max_size=120))
def test_any_text_gives_exact_spans_or_nothing(text):
    doc = document("Odd - Book", text)
    for fact in heading_facts(doc, "Odd", []):
        assert doc.text[fact.start : fact.end] == fact.text
        assert any(item.start <= fact.start and fact.end <= item.end for item in fact.evidence)


@given(st.text(alphabet="ab1,; ()%-$", max_size=80))
def test_any_list_text_is_bounded(text):
    items = parse_list(text)
    assert items is None or 2 <= len(items) <= 40
