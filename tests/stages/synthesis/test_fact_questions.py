"""numerical, multi_hop and multiple_choice on the starter corpus: every question holds, and twice the same bytes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from fact_corpus import country, document, starter_documents, store_of, write_documents

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.records import AnswerKind, Dropped, QAPair, Span, TaskType
from stages.common.storage import read_json, read_records
from stages.synthesis import multi_hop, multiple_choice, numerical
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.rederive import rederive

STAGES = {
    TaskType.NUMERICAL: (numerical, 700),
    TaskType.MULTI_HOP: (multi_hop, 150),
    TaskType.MULTIPLE_CHOICE: (multiple_choice, 150),
}


def stage(module, folder, out, questions, minimum=8, seed=17):
    out.mkdir(parents=True, exist_ok=True)
    config = SynthesizeStage.model_validate(
        {"generator": {"questions": questions, "min_questions": minimum}, "seed": seed}
    )
    return module.run(config, {"documents": folder}, out, out, lambda step, metrics: None)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """The starter corpus and the questions that each stage makes of it."""
    root = tmp_path_factory.mktemp("starter")
    folder = write_documents(root / "documents", starter_documents())
    made = {}
    for task, (module, questions) in STAGES.items():
        stage(module, folder, root / task, questions)
        made[task] = read_records(root / task / "qa.jsonl", QAPair)
    return root, folder, store_of(folder), made


@pytest.mark.parametrize("task", STAGES)
def test_every_question_is_rederived_from_the_documents(starter, task):
    _, _, documents, made = starter
    for qa in made[task]:
        assert all(item.quote == documents.text_of(item) for item in qa.evidence)
        assert rederive(qa, documents.text_of) == qa.answer


@pytest.mark.parametrize("task", STAGES)
def test_as_many_as_wanted_and_no_two_alike(starter, task):
    made = starter[3][task]
    assert len(made) == STAGES[task][1]
    assert len({qa.question for qa in made}) == len(made)
    assert len({qa.id for qa in made}) == len(made)


@pytest.mark.parametrize("task", STAGES)
def test_the_same_bytes_twice_and_others_with_another_seed(starter, task, tmp_path):
    module = STAGES[task][0]
    for name, seed in (("one", 17), ("two", 17), ("other", 18)):
        stage(module, starter[1], tmp_path / name, 80, seed=seed)
    for name in ("qa.jsonl", "dropped.jsonl", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one/qa.jsonl").read_bytes() != (tmp_path / "other/qa.jsonl").read_bytes()


@pytest.mark.parametrize("task", STAGES)
def test_a_changed_digit_in_a_document_is_noticed(starter, task):
    """Re-deriving reads the document, not the proof."""
    _, _, documents, made = starter
    for qa in made[task][:40]:
        shifted = rederive(
            qa, lambda span: documents.text_of(span).translate(str.maketrans("0123456789", "1234567890"))
        )
        if any(character.isdigit() for row in _rows(qa.proof) for character in row["value"]):
            assert shifted != qa.answer


def _rows(proof):
    hops = proof.get("hops", [])
    return [*proof.get("rows", []), *(row for hop in hops for row in [*hop.get("rows", []), hop.get("row")] if row)]


def test_more_than_500_distinct_lookups_are_spread_over_countries_and_attributes(starter):
    made = starter[3][TaskType.NUMERICAL]
    lookups = [qa for qa in made if qa.generator == "numerical/lookup"]
    assert len(lookups) >= 500
    assert len(lookups) >= 0.6 * len(made)
    documents = Counter(qa.evidence[0].document_id for qa in lookups)
    assert len(documents) >= 25
    assert max(documents.values()) <= 2 * min(documents.values())
    assert max(Counter(qa.proof["rows"][0]["attribute"] for qa in lookups).values()) <= 30


def test_a_lookup_reads_one_cell_of_one_document(starter):
    for qa in starter[3][TaskType.NUMERICAL]:
        if qa.generator in ("numerical/lookup", "numerical/table_cell"):
            assert len(qa.proof["rows"]) == 1
            assert len({item.document_id for item in qa.evidence}) == 1
            assert qa.answer_kind is AnswerKind.NUMBER


def test_every_family_occurs(starter):
    found = {qa.generator.split("/")[1] for task in STAGES for qa in starter[3][task]}
    assert found >= {
        *("lookup", "table_cell", "sum", "difference", "ratio", "largest", "count", "change"),
        *("neighbour", "described", "comparison", "attribute", "number", "name", "cell"),
    }


def test_multi_hop_answers_are_not_in_their_questions_and_most_need_two_documents(starter):
    made = starter[3][TaskType.MULTI_HOP]
    assert not any(qa.answer.casefold() in qa.question.casefold() for qa in made)
    assert sum(len({item.document_id for item in qa.evidence}) > 1 for qa in made) > 0.7 * len(made)


def test_letters_are_even_and_options_are_four_of_one_unit(starter):
    made = starter[3][TaskType.MULTIPLE_CHOICE]
    letters = Counter(qa.answer for qa in made)
    assert set(letters) == set("ABCD")
    assert max(letters.values()) - min(letters.values()) <= 8
    for qa in made:
        assert len(set(qa.choices)) == 4
        assert qa.choices["ABCD".index(qa.answer)] == qa.proof["option"]
        if qa.generator == "multiple_choice/number":
            assert len({choice.lstrip("-$0123456789,.") for choice in qa.choices}) == 1


def test_what_was_dropped_is_kept_with_its_reason(starter):
    root = starter[0]
    dropped = read_records(root / "numerical" / "dropped.jsonl", Dropped)
    summary = read_json(root / "numerical" / "summary.json")
    assert summary["dropped"] == dict(Counter(record.reason for record in dropped))
    assert {"ambiguous_cell", "no_clear_number"} <= set(summary["dropped"])


@pytest.mark.parametrize("task", STAGES)
def test_a_corpus_without_facts_says_how_many_were_found_and_what_would_help(tmp_path, task):
    folder = write_documents(tmp_path / "documents", [document("A novel", "It was a dark night.\n\n" * 50)])
    with pytest.raises(NotEnoughDataError, match=rf"{task}: 0 questions found, at least 8 needed. Add .*documents"):
        stage(STAGES[task][0], folder, tmp_path / "out", 10)


def test_a_folder_without_documents_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="holds no documents"):
        stage(numerical, tmp_path, tmp_path / "out", 10)


def test_a_hostile_corpus_is_read_in_bounded_time(tmp_path):
    bodies = [
        "| a | b |\n|---|---|\n" + "| row | 5 |\n" * 100_000,
        "x" * 1_000_000,
        "## " + "(" * 100_000 + "\n\n5 km\n",
        "## A\n\n" + "1," * 200_000 + "\n",
        "#" * 200_000,
        "## A\n\n5 km\n\n" * 20_000,
        "## '; DROP TABLE facts; --\n\n5 km\n",
    ]
    documents = [document(f"Odd {i}' OR 1=1", body) for i, body in enumerate(bodies)]
    countries = [
        country("Algeria", "Algiers", "998 km", "Libya 989 km; Morocco 1,941 km"),
        country("Morocco", "Rabat", "2,945 km", "Algeria 1,941 km; Spain 18.5 km"),
    ]
    folder = write_documents(tmp_path / "documents", [*documents, *countries])
    counts = stage(numerical, folder, tmp_path / "out", 10, minimum=3)
    assert counts["questions"] >= 3
    made = read_records(tmp_path / "out/qa.jsonl", QAPair)
    assert any(qa.answer == "2945" for qa in made)


def test_the_generators_load_neither_torch_nor_transformers():
    code = (
        "import sys, stages.synthesis.numerical, stages.synthesis.multi_hop, stages.synthesis.multiple_choice;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_evidence_beyond_the_quotes_does_not_count(starter):
    """A row that points outside of the evidence proves nothing, even where the document says it."""
    _, _, documents, made = starter
    lookups = [qa for qa in made[TaskType.NUMERICAL] if qa.generator == "numerical/lookup"]
    first, second = next(
        (a, b) for a in lookups for b in lookups if a.evidence[0].document_id == b.evidence[0].document_id and a != b
    )
    moved = second.model_copy(update={"evidence": first.evidence})
    assert rederive(moved, documents.text_of) is None


def test_sql_that_is_no_select_is_not_rederived(starter):
    _, _, documents, made = starter
    qa = made[TaskType.NUMERICAL][0]
    forged = qa.model_copy(update={"proof": {**qa.proof, "sql": "DROP TABLE facts"}})
    assert rederive(forged, documents.text_of) is None
    assert rederive(qa, documents.text_of) == qa.answer
    assert rederive(qa.model_copy(update={"proof": {"kind": "sql"}}), documents.text_of) is None
    assert rederive(qa.model_copy(update={"proof": {"kind": "no such"}}), documents.text_of) is None


def test_the_document_store_gives_what_evidence_says(starter):
    _, _, documents, made = starter
    item = made[TaskType.MULTI_HOP][0].evidence[0]
    assert documents.text_of(Span(document_id=item.document_id, start=item.start, end=item.end)) == item.quote
