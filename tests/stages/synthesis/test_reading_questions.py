"""Reading questions: each family's answer read off a hand-made document, uniqueness, limits, bad input."""

import pytest
from sample_corpus import doc, ingested, store

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.records import Category, QAPair
from stages.common.storage import read_json, read_records
from stages.synthesis import reading_comprehension
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.reading_comprehension import make_questions
from stages.synthesis.reading_families import FAMILIES
from stages.synthesis.rederive import rederive

PROFILE = """# Ruritania - Atlas

## Geography

### Area

#### total

21 sq km

#### land

20 sq km

### Climate

mild and wet all year

## Economy

### Exports

- timber
- cheese
- clocks

The harbour of Strelsau was opened to foreign merchants in the spring of 1851 by royal decree. More follows here.
"""
SOURCE = """import os


class Clock:
    def wind(self):
        return 1

    def strike(self):
        return 2
"""
ATLAS = doc("ruritania", PROFILE, title="Ruritania - Atlas")
CODE = doc("clock", SOURCE, Category.CODE, "clock.py")


def answers(family, document=ATLAS):
    return {(c.question, c.answer): document.text[c.start : c.end] for c in FAMILIES[family](document)}


def test_the_heading_after():
    found = answers("heading_after")
    key = ('In "Ruritania - Atlas", which heading comes directly after the heading "Area"?', "total")
    assert found[key] == "### Area\n\n#### total"
    assert {answer for _, answer in found} == {"Geography", "Area", "total", "land", "Climate", "Economy", "Exports"}


def test_subsections_are_counted_over_the_whole_section():
    found = answers("count_subsections")
    question = 'In "Ruritania - Atlas", how many subsections does the section "{}" have?'
    assert found[question.format("Geography"), "2"].startswith("## Geography")
    assert found[question.format("Geography"), "2"].rstrip().endswith("mild and wet all year")
    assert (question.format("Area"), "2") in found
    assert not any("Economy" in asked for asked, _ in found)  # one subsection only


def test_the_last_subsection():
    found = answers("last_subsection")
    asked = 'In "Ruritania - Atlas", what is the heading of the last subsection of the section "{}"?'
    assert (asked.format("Geography"), "Climate") in found
    assert (asked.format("Area"), "land") in found


def test_items_of_a_list_under_a_heading():
    ((question, answer),) = answers("count_list_items")
    assert (question, answer) == (
        'In "Ruritania - Atlas", how many items does the list under the heading "Exports" have?',
        "3",
    )


def test_what_a_short_passage_says_in_words_not_numbers():
    found = answers("value_under")
    assert set(found) == {
        (
            'What does "Ruritania - Atlas" say under the heading "Climate" of the section "Geography"?',
            "mild and wet all year",
        )
    }


def test_which_document_says_a_sentence():
    ((question, answer),) = answers(
        "which_document", doc("chronicle", PROFILE.replace("\n\nThe harbour", "\n\nLong ago. The harbour"))
    )
    assert "opened to foreign merchants" in question
    assert answer == "chronicle"


def test_methods_of_a_class():
    ((asked, number),) = answers("count_methods", CODE)
    assert number == "2"
    assert '"Clock"' in asked
    ((asked, following),) = answers("method_after", CODE)
    assert following == "strike"
    assert '"wind"' in asked


def corpus(number=3):
    """Documents that differ in their words; clock.py once."""
    return [
        doc(f"r{i}", PROFILE.replace("Strelsau", f"Town{i}").replace("wet", f"wet{i}"), title=f"Land{i} - Atlas")
        for i in range(number)
    ] + [CODE]


def test_every_question_is_rederived_from_its_quotes(tmp_path):
    documents = store(tmp_path, *corpus())
    pairs, _ = make_questions(documents, 100, seed=1)
    assert len({pair.generator for pair in pairs}) >= 4
    for pair in pairs:
        assert rederive(pair, documents.text_of) == pair.answer
        assert all(documents.text_of(span) == span.quote for span in pair.evidence)
        assert pair.generator.startswith("reading_comprehension/")


def test_a_proof_that_does_not_fit_its_quote_gives_nothing(tmp_path):
    documents = store(tmp_path, *corpus())
    for pair in make_questions(documents, 100, seed=1)[0]:
        damaged = {key: "something else" if key != "kind" else value for key, value in pair.proof.items()}
        assert rederive(pair.model_copy(update={"proof": damaged}), documents.text_of) is None
        assert rederive(pair.model_copy(update={"proof": {"kind": pair.proof["kind"]}}), documents.text_of) is None


def test_a_pattern_that_recurs_is_asked_about_twice_at_most(tmp_path):
    pairs, dropped = make_questions(store(tmp_path, *corpus(6)), 200, seed=1)
    assert sum(pair.answer == "total" for pair in pairs) == 2
    assert {record.reason for record in dropped} == {"same_pattern"}


def test_documents_that_share_a_title_are_not_asked_about(tmp_path):
    twins = [doc(f"r{i}", PROFILE + str(i), title="Atlas") for i in range(2)]
    pairs, dropped = make_questions(store(tmp_path, *twins), 100, seed=1)
    assert pairs == []
    assert [(record.reason, record.record["document_id"]) for record in dropped] == [
        ("shared_title", "general/r0"),
        ("shared_title", "general/r1"),
    ]


def test_a_sentence_in_two_documents_is_not_asked_about(tmp_path):
    said = (
        "\n\nLong ago it was. The harbour was opened to all foreign merchants in the spring of 1851 by royal decree. \n"
    )
    documents = store(tmp_path, doc("first", "# A\n" + said), doc("second", "# B\n" + said))
    pairs, dropped = make_questions(documents, 100, seed=1)
    assert pairs == []
    assert {record.reason for record in dropped} == {"not_unique"}


def test_equal_seeds_give_equal_questions(tmp_path):
    documents = store(tmp_path, *corpus())
    assert make_questions(documents, 9, seed=1) == make_questions(documents, 9, seed=1)
    assert make_questions(documents, 9, seed=1) != make_questions(documents, 9, seed=2)


def stage(tmp_path, *documents, minimum=1):
    config = SynthesizeStage.model_validate({"generator": {"questions": 12, "min_questions": minimum}, "seed": 3})
    inputs = {"documents": ingested(tmp_path / "in", *documents) / "documents"}
    out = tmp_path / "out"
    out.mkdir()
    return reading_comprehension.run(config, inputs, out, tmp_path, lambda step, metrics: None)


def test_the_stage_writes_its_files(tmp_path):
    counts = stage(tmp_path, *corpus())
    assert counts["questions"] == 12
    assert len(read_records(tmp_path / "out" / "qa.jsonl", QAPair)) == 12
    assert sum(read_json(tmp_path / "out" / "summary.json")["generators"].values()) == 12


def test_one_short_document_and_empty_categories_are_an_error_that_counts(tmp_path):
    with pytest.raises(NotEnoughDataError, match=r"reading_comprehension: 0 questions found, at least 8 needed"):
        stage(tmp_path, doc("a", "Nothing to ask."), minimum=8)


def test_a_missing_folder_is_named(tmp_path):
    config = SynthesizeStage.model_validate({"generator": {"questions": 1, "min_questions": 1}, "seed": 3})
    with pytest.raises(InputError, match=r"code\.jsonl does not exist"):
        reading_comprehension.run(config, {"documents": tmp_path}, tmp_path, tmp_path, lambda step, metrics: None)


def test_a_heading_below_another_is_named_with_it():
    asked = dict(answers("value_under").keys())
    assert asked['What does "Ruritania - Atlas" say under the heading "Climate" of the section "Geography"?'] == (
        "mild and wet all year"
    )


def test_a_title_that_is_a_file_name_is_not_asked_for():
    chronicle = doc("chronicle", PROFILE.replace("\n\nThe harbour", "\n\nLong ago. The harbour"))
    for title in ("Ruritania - Atlas", "Ruritania"):
        assert answers("which_document", chronicle.model_copy(update={"title": title}))
    for title in ("jnj-10K-2025-02-13", "notes_3.final", "report2"):
        assert not answers("which_document", chronicle.model_copy(update={"title": title}))
