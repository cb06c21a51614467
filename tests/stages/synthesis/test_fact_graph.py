"""The knowledge graph and its questions on three countries whose facts are known by heart."""

from __future__ import annotations

from fact_corpus import country, document, store_of, write_documents

from stages.common.records import AnswerKind
from stages.synthesis import multi_hop, multiple_choice, numerical
from stages.synthesis.corpus import read_corpus
from stages.synthesis.knowledge_graph import build_graph
from stages.synthesis.rederive import rederive

ABBREVIATION = "\n### Short\n\n#### abbreviation\n\nUS or USA\n"
COUNTRIES = [
    country("Algeria", "Algiers", "998 km", "Libya 989 km; Morocco 1,941 km; USA 3 km; Mali 989 km"),
    country("Morocco", "Rabat", "2,945 km", "Algeria 1,941 km; Spain 18.5 km"),
    country("United States", "Washington", "19,924 km", "Canada 8,891 km; Algeria 3 km", ABBREVIATION),
    country("Libya", "Tripoli", "1,770 km", "Algeria 989 km; Egypt 1,115 km"),
]


def corpus_of(tmp_path, documents=COUNTRIES):
    folder = write_documents(tmp_path / "documents", documents)
    return read_corpus(folder), store_of(folder)


def test_edges_join_documents_through_their_names_and_aliases(tmp_path):
    corpus, _ = corpus_of(tmp_path)
    knowledge = build_graph(corpus)
    name = {node: data["name"] for node, data in knowledge.graph.nodes(data=True)}
    edges = {(name[head], name[tail], str(m.item.quantity.value)) for head, tail, m in knowledge.mentions()}
    assert edges == {
        ("Algeria", "Libya", "989"),
        ("Algeria", "Morocco", "1941"),
        ("Algeria", "United States", "3"),
        ("Morocco", "Algeria", "1941"),
        ("United States", "Algeria", "3"),
        ("Libya", "Algeria", "989"),
    }
    usa = next(m for _, _, m in knowledge.mentions() if m.item.name == "USA")
    assert usa.alias is not None
    assert usa.alias.text == "US or USA"


def test_a_name_that_two_documents_claim_joins_neither(tmp_path):
    twin = country("America", "Springfield", "5 km", "Canada 2 km; Mexico 3 km", ABBREVIATION)
    knowledge = build_graph(corpus_of(tmp_path, [*COUNTRIES, twin])[0])
    assert not any(mention.item.name == "USA" for _, _, mention in knowledge.mentions())


def test_two_hop_questions_have_the_answers_of_the_map(tmp_path):
    corpus, documents = corpus_of(tmp_path)
    made = {qa.question: qa for qa in multi_hop.make_questions(corpus, 500, 17).questions}
    border = "the country that has a land border of {} with {}"
    assert made[f"What is the capital of {border.format('1,941 km', 'Algeria')}?"].answer == "Rabat"
    assert made[f"What is the coastline of {border.format('3 km', 'Algeria')}, in km?"].answer == "19924"
    longest = "the country with which {} has its longest land border"
    assert made[f"What is the capital of {longest.format('Algeria')}?"].answer == "Rabat"
    described = border.format("1,941 km", "the country whose capital is Algiers")
    assert made[f"What is the coastline of {described}, in km?"].answer == "2945"
    for qa in made.values():
        assert rederive(qa, documents.text_of) == qa.answer
        assert qa.answer not in qa.question


def test_an_entry_with_a_twin_is_not_asked_for_by_its_number(tmp_path):
    """Libya and Mali both share 989 km with Algeria; Spain has no document."""
    corpus, _ = corpus_of(tmp_path)
    questions = [qa.question for qa in multi_hop.make_questions(corpus, 500, 17).questions]
    assert not any("989 km with Algeria" in question for question in questions)
    assert any("989 km with Libya" in question for question in questions)
    assert not any("shortest land border" in question and "Morocco" in question for question in questions)


def test_a_path_is_broken_by_a_hop_that_does_not_hold(tmp_path):
    corpus, documents = corpus_of(tmp_path)
    qa = next(qa for qa in multi_hop.make_questions(corpus, 500, 17).questions if "3 km with Algeria" in qa.question)
    hops = [dict(hop) for hop in qa.proof["hops"]]
    assert [hop["op"] for hop in hops] == ["select", "alias", "value"]
    for change in ({"value": "1941"}, {"by": "max"}):
        forged = [{**hops[0], **change}, *hops[1:]]
        assert rederive(qa.model_copy(update={"proof": {"kind": "path", "hops": forged}}), documents.text_of) is None
    without_alias = [hops[0], {**hops[1], "row": hops[2]["row"]}, hops[2]]
    assert rederive(qa.model_copy(update={"proof": {"kind": "path", "hops": without_alias}}), documents.text_of) is None
    skipped = [hops[0], hops[2]]
    assert rederive(qa.model_copy(update={"proof": {"kind": "path", "hops": skipped}}), documents.text_of) is None


def test_computed_answers_are_those_of_a_hand(tmp_path):
    """Coastlines: 998, 2945, 19924 and 1770 km."""
    corpus, documents = corpus_of(tmp_path)
    made = {qa.question: qa for qa in numerical.make_questions(corpus, 2000, 17).questions}
    by_family = {qa.generator for qa in made.values()}
    assert by_family >= {"numerical/sum", "numerical/difference", "numerical/ratio", "numerical/count"}
    coast = {"Algeria": 998, "Morocco": 2945, "United States": 19924, "Libya": 1770}
    for qa in made.values():
        values = [coast[row["entity"]] for row in qa.proof["rows"]]
        expected = {
            "numerical/lookup": lambda v: str(v[0]),
            "numerical/sum": lambda v: str(sum(v)),
            "numerical/difference": lambda v: str(v[0] - v[1]),
            "numerical/largest": lambda v: str(max(v)),
            "numerical/ratio": lambda v: f"{v[0] / v[1]:.2f}".rstrip("0").rstrip("."),
        }.get(qa.generator)
        if expected is not None:
            assert qa.answer == expected(values)
        assert rederive(qa, documents.text_of) == qa.answer
    assert made["What is the coastline of the United States, in km?"].answer == "19924"
    which = [qa for qa in made.values() if qa.generator.startswith("numerical/which_")]
    assert len(which) >= 4
    for qa in which:
        pick = max if "larger" in qa.question or "largest" in qa.question else min
        assert qa.answer == pick((row["entity"] for row in qa.proof["rows"]), key=coast.__getitem__)
        assert qa.answer_kind is AnswerKind.TEXT


def test_year_to_year_changes_are_the_later_minus_the_earlier(tmp_path):
    body = "## Money (in millions)\n\n| | 2024 | 2023 |\n|---|---|---|\n| Net sales | 391,035 | 383,285 |\n| Net loss | (565) | 269 |\n"
    body += "\n## Economy\n\n### Exports\n\n#### Exports 2024\n\n$5.5 billion\n\n#### Exports 2022\n\n$6.25 billion\n"
    corpus, _ = corpus_of(tmp_path, [document("Acme report - 2024", body)])
    made = numerical.make_questions(corpus, 100, 17).questions
    changes = {qa.question: qa.answer for qa in made if qa.generator == "numerical/change"}
    assert sorted(changes.values()) == ["-0.75", "-834", "7750"]


def test_options_are_other_entities_values_and_the_right_one_stands_at_the_letter(tmp_path):
    corpus, documents = corpus_of(tmp_path)
    made = {qa.question: qa for qa in multiple_choice.make_questions(corpus, 100, 17).questions}
    coast = made["What is the coastline of Morocco, in km?"]
    assert set(coast.choices) == {"998 km", "2,945 km", "19,924 km", "1,770 km"}
    assert coast.choices["ABCD".index(coast.answer)] == "2,945 km"
    capital = made["What is the capital of Libya?"]
    assert set(capital.choices) <= {"Algiers", "Rabat", "Washington", "Tripoli"}
    assert rederive(coast, documents.text_of) == coast.answer
    swapped = coast.model_copy(update={"choices": [*coast.choices[1:], coast.choices[0]]})
    assert rederive(swapped, documents.text_of) != coast.answer
    # The country's own name in an option would give it away.
    assert not any("short form" in question for question in made)
