"""Stages synthesize@numerical and @multiple_choice on the starter corpus: every question holds, twice the same bytes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from fact_corpus import country, document, starter_documents, store_of, write_documents

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.records import AnswerKind, Dropped, QAPair, TaskType
from stages.common.shards import ProcessExecutor, SerialExecutor
from stages.common.storage import read_json, read_records
from stages.synthesis import multiple_choice, numerical
from stages.synthesis.config import NumericalStage, SynthesizeStage
from stages.synthesis.near_duplicates import near_duplicates
from stages.synthesis.numerical_families import FAMILIES
from stages.synthesis.rederive import rederive

LOOKUPS = {"lookup": 0.8, "table_cell": 0.05, "computed": 0.15}
HARD = {"lookup": 0.03, "table_cell": 0.03, "computed": 0.94}
NAMES = ("easy", "hard", "choice")


def make(folder, out, name, questions, seed=17, minimum=8, executor=None):
    """`name`: numerical questions, mostly look-ups (easy) or not (hard), or multiple choice."""
    out.mkdir(parents=True, exist_ok=True)
    generator = {"questions": questions, "min_questions": minimum}
    executor = executor or SerialExecutor()
    if name == "choice":
        config = SynthesizeStage.model_validate({"generator": generator, "seed": seed})
        return multiple_choice.make(config, folder, out, out / "state", executor)
    generator |= {
        "families": LOOKUPS if name == "easy" else HARD,
        "max_entities": 4 if name == "easy" else 8,
        "written": 0,
    }
    config = NumericalStage.model_validate({"generator": generator, "seed": seed})
    return numerical.make(config, folder, out, out / "state", executor)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    root = tmp_path_factory.mktemp("starter")
    folder = write_documents(root / "documents", starter_documents())
    made = {}
    for name, questions in (("easy", 250), ("hard", 150), ("choice", 128)):
        make(folder, root / name, name, questions)
        made[name] = read_records(root / name / "qa.jsonl", QAPair)
    return root, folder, store_of(folder), made


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_rederived_from_the_documents(starter, name):
    _, _, documents, made = starter
    for qa in made[name]:
        assert all(item.quote == documents.text_of(item) for item in qa.evidence)
        assert rederive(qa, documents.text_of) == qa.answer


@pytest.mark.parametrize("name", NAMES)
def test_as_many_as_wanted_and_no_two_nearly_alike(starter, name):
    made = starter[3][name]
    assert len(made) == {"easy": 250, "hard": 150, "choice": 128}[name]
    assert len({qa.id for qa in made}) == len(made)
    assert near_duplicates(made) == {}


@pytest.mark.parametrize("name", ["hard", "choice"])
def test_the_same_bytes_twice_and_others_with_another_seed(starter, name, tmp_path):
    for part, seed in (("one", 17), ("two", 17), ("other", 18)):
        make(starter[1], tmp_path / part, name, 20, seed)
    for file in ("qa.jsonl", "dropped.jsonl", "summary.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one/qa.jsonl").read_bytes() != (tmp_path / "other/qa.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_whatever_the_number_of_workers(starter, name, tmp_path):
    for workers in (1, 3):
        make(starter[1], tmp_path / str(workers), name, 40, executor=ProcessExecutor(workers))
    make(starter[1], tmp_path / "serial", name, 40)
    for file in ("qa.jsonl", "dropped.jsonl"):
        assert len({(tmp_path / part / file).read_bytes() for part in ("1", "3", "serial")}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_digit_in_a_document_is_noticed(starter, name):
    """Re-deriving reads the document, not the proof."""
    _, _, documents, made = starter
    shift = str.maketrans("0123456789", "1234567890")
    for qa in [qa for qa in made[name] if _rows(qa) and _rows(qa)[0]["value"][:1].isdigit()][:40]:
        assert rederive(qa, lambda span: documents.text_of(span).translate(shift)) != qa.answer


def _rows(qa):
    return qa.proof.get("rows") or qa.proof.get("of", {}).get("rows", [])


def test_a_cell_moved_to_another_column_or_row_is_noticed(starter):
    """The proof says row and column; the document's own lines must agree."""
    _, _, documents, made = starter
    cells = [qa for qa in made["hard"] if qa.generator == "numerical/table_cell"]
    assert cells
    for qa in cells:
        row = qa.proof["rows"][0]
        for change in (
            {"grid": {**row["grid"], "column": ["Another column"]}},
            {"labels": ["Another row", *row["labels"][1:]]},
            {"attribute": "Another row"},
            {"value": row["value"] + "0"},
            {"scale": "in billions"},
            {"unit": "%%"},
            {"start": row["grid"]["line"][0] + 2, "end": row["grid"]["line"][0] + 6},
        ):
            forged = qa.model_copy(update={"proof": {**qa.proof, "rows": [{**row, **change}]}})
            assert rederive(forged, documents.text_of) is None


def test_evidence_that_does_not_hold_the_cell_or_forged_sql_proves_nothing(starter):
    _, _, documents, made = starter
    first, second = [qa for qa in made["easy"] if qa.generator == "numerical/lookup"][:2]
    assert rederive(first.model_copy(update={"evidence": second.evidence}), documents.text_of) is None
    for proof in ({"sql": "DROP TABLE facts"}, {"sql": "SELECT getenv('HOME')"}, {"rows": []}, {"kind": "no such"}):
        assert rederive(first.model_copy(update={"proof": {**first.proof, **proof}}), documents.text_of) is None
    assert rederive(first.model_copy(update={"proof": {"kind": "sql"}}), documents.text_of) is None


def test_the_easy_mix_is_mostly_lookups_of_one_cell_spread_over_countries(starter):
    made = starter[3]["easy"]
    lookups = [qa for qa in made if qa.generator == "numerical/lookup"]
    assert len(lookups) >= 0.75 * len(made)
    assert all(len(qa.proof["rows"]) == 1 and qa.answer_kind is AnswerKind.NUMBER for qa in lookups)
    documents = Counter(qa.evidence[0].document_id for qa in lookups)
    assert len(documents) >= 25
    assert max(documents.values()) <= 2 * min(documents.values())


def test_the_hard_mix_uses_30_families_and_more_evenly(starter):
    made = starter[3]["hard"]
    families = Counter(qa.generator.split("/")[1] for qa in made)
    assert set(families) <= set(FAMILIES)
    assert len(families) >= 40
    assert max(families.values()) <= 0.06 * len(made)
    computed = [qa for qa in made if len({item.document_id for item in qa.evidence}) > 1]
    assert len(computed) >= 0.4 * len(made)


def test_options_are_four_of_one_kind_and_exactly_one_is_right(starter):
    made = starter[3]["choice"]
    for qa in made:
        assert len(set(qa.choices)) == 4
        assert qa.choices["ABCD".index(qa.answer)] == qa.proof["option"]
        if qa.generator.endswith(("/computed", "/figure")):
            assert len({len(choice.partition(".")[2]) for choice in qa.choices}) == 1
            assert len({float(choice.replace(",", "")) for choice in qa.choices}) == 4
    assert {qa.generator.split("/")[1] for qa in made} == {"computed", "figure", "entity", "name", "heading"}


def test_neither_letter_nor_rank_gives_the_right_option_away(starter):
    made = starter[3]["choice"]
    letters = Counter(qa.answer for qa in made)
    numbers = [qa for qa in made if qa.generator.endswith(("/computed", "/figure"))]
    ranks = Counter(
        sorted(qa.choices, key=lambda choice: float(choice.replace(",", ""))).index(qa.proof["option"])
        for qa in numbers
    )
    for counts in (letters, ranks):
        assert len(counts) == 4
        assert max(counts.values()) - min(counts.values()) <= 0.15 * counts.total()


def test_what_was_dropped_is_kept_with_its_reason(starter):
    root = starter[0]
    dropped = read_records(root / "easy" / "dropped.jsonl", Dropped)
    summary = read_json(root / "easy" / "summary.json")
    assert summary["dropped"] == dict(Counter(record.reason for record in dropped))
    assert {"ambiguous_cell", "ambiguous_year", "no_clear_number"} <= set(summary["dropped"])


@pytest.mark.parametrize(("name", "task"), [("easy", TaskType.NUMERICAL), ("choice", TaskType.MULTIPLE_CHOICE)])
def test_a_corpus_without_facts_says_how_many_were_found_and_what_would_help(tmp_path, name, task):
    folder = write_documents(tmp_path / "documents", [document("A novel", "It was a dark night.\n\n" * 50)])
    with pytest.raises(NotEnoughDataError, match=rf"{task}: 0 questions found, at least 8 needed. Add .*documents"):
        make(folder, tmp_path / "out", name, 10)


def test_a_folder_without_documents_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="holds no documents"):
        make(tmp_path, tmp_path / "out", "easy", 10)


def test_a_hostile_corpus_is_read_in_bounded_time(tmp_path):
    bodies = [
        "| a | b |\n|---|---|\n" + "| row | 5 |\n" * 100_000,
        "x" * 1_000_000,
        "## " + "(" * 100_000 + "\n\n5 km\n",
        "## A\n\n" + "1," * 200_000 + "\n",
        "#" * 200_000,
        "## A\n\n5 km\n\n" * 20_000,
        "## '; DROP TABLE facts; --\n\n5 km\n",
        "| in millions " * 2000 + "|\n|" + "---|" * 2000 + "\n" + "| 5 " * 2000 + "|\n",
        "| " + "\\|" * 5000 + " | 2024 |\n|---|---|\n| row name | 7 |\n",
    ]
    documents = [document(f"Odd {i}' OR 1=1", body) for i, body in enumerate(bodies)]
    countries = [
        country("Algeria", "Algiers", "998 km", "Libya 989 km; Morocco 1,941 km"),
        country("Morocco", "Rabat", "2,945 km", "Algeria 1,941 km; Spain 18.5 km"),
    ]
    folder = write_documents(tmp_path / "documents", [*documents, *countries])
    counts = make(folder, tmp_path / "out", "easy", 10, minimum=3)
    assert counts["questions"] >= 3
    assert any(qa.answer == "2945" for qa in read_records(tmp_path / "out/qa.jsonl", QAPair))


def test_the_generators_load_neither_torch_nor_transformers():
    code = (
        "import sys, stages.synthesis.numerical, stages.synthesis.multiple_choice;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
