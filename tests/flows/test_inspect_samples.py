"""`longfuse inspect`: what it shows of samples and drops, how it takes hostile text, what it says to mistakes."""

import json
import re

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.inspect import inspect
from flows.inspect_text import safe
from stages.common.errors import ConfigError, InputError
from stages.common.records import AnswerKind, Category, Document, Dropped, Evidence, QAPair, Sample, Span, TaskType
from stages.common.storage import write_jsonl

TEXT = "# Land\n\n" + "x" * 400 + "\n\n## Coast\n\n12 km\n\n" + "y" * 400 + "\n"
EVIL = "\x1b[2J\x1b]0;owned\x07\u202eevil\u2028"


def page(name, text=TEXT, title="The Land"):
    return Document(
        id=f"general/{name}",
        category=Category.GENERAL,
        title=title,
        text=text,
        source="a.md",
        format="markdown",
        tokens=9,
    )


def sample(number, task=TaskType.NUMERICAL, **changes):
    start = TEXT.index("## Coast")
    end = TEXT.index("km") + 2
    fields = {
        "id": f"{task}-{number:012x}",
        "task_type": task,
        "question": f"What is the coastline of land {number}, in km?",
        "answer": "12",
        "answer_kind": AnswerKind.NUMBER,
        "evidence": [Evidence(document_id="general/a", start=start, end=end, quote=TEXT[start:end])],
        "proof": {
            "kind": "sql",
            "sql": "SELECT value FROM facts",
            "rows": [{"document_id": "general/a", "entity": "Land", "attribute": "coast", "value": "12", "unit": "km"}],
        },
        "generator": "numerical/lookup",
        "seed": 1,
        "context": [
            Span(document_id="general/b", start=0, end=len(TEXT)),
            Span(document_id="general/a", start=0, end=len(TEXT)),
        ],
        "context_tokens": 123,
    }
    return Sample.model_validate({**fields, **changes})


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    samples = [sample(n) for n in range(30)]
    evil = sample(99, TaskType.MULTI_HOP, question=f"Who? {EVIL}", answer=EVIL, answer_kind=AnswerKind.TEXT)
    path = {
        "kind": "path",
        "hops": [{"op": "select", "from": "A", "row": {"entity": "A", "value": EVIL}}, {"op": "value"}],
    }
    evil = evil.model_copy(update={"proof": path})
    questions = [
        QAPair(**{key: value for key, value in dict(s).items() if key in QAPair.model_fields}) for s in samples
    ]
    write_jsonl(
        folder / "synthesize/numerical/data/qa.jsonl",
        [*questions, questions[0].model_copy(update={"id": "numerical-early"})],
    )
    write_jsonl(folder / "assemble/data/samples.jsonl", [*samples, evil])
    write_jsonl(folder / "assemble/data/documents.jsonl", [page("a"), page("b", title=f"B {EVIL}")])
    write_jsonl(folder / "verify/data/samples.jsonl", [*samples, evil])
    write_jsonl(
        folder / "verify/data/verification.jsonl", [{"id": samples[3].id, "model_checked": True, "pass_rate": 0.25}]
    )
    write_jsonl(folder / "stratify/data/train.jsonl", [samples[3]])
    write_jsonl(
        folder / "ingest/data/dropped.jsonl",
        [Dropped(reason="too_short", stage="ingest", detail=f"4 characters {EVIL}", record={"path": "x\ny.txt"})] * 3,
    )
    merge = {
        "kind": "entity", "rule": "alias", "name": "USA", "document_id": "general/a", "start": 3, "end": 6, "documents": 2,
        "entity": "doc:general/b", "known_as": f"United {EVIL}", "known_document_id": "general/b", "known_start": 9,
        "known_end": 12, "detail": "",
    }  # fmt: skip
    write_jsonl(
        folder / "synthesize/multi_hop/data/merges.jsonl",
        [merge, {**merge, "rule": "normalised", "documents": 1, "known_start": 0, "known_end": 0}],
    )
    write_jsonl(
        folder / "verify/data/dropped.jsonl",
        [
            Dropped(
                reason="near_duplicate",
                stage="verify",
                detail="asks the same as x",
                record=sample(77).model_dump(mode="json"),
            )
        ],
    )
    return folder


def has_no_control_characters(text):
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]", text)


def test_a_sample_is_shown_with_its_proof_and_its_evidence_in_place(outputs):
    text = inspect(outputs, sample(3).id)
    assert "in stratify/train, verify, assemble, synthesize@numerical" in text
    assert "What is the coastline of land 3, in km?" in text
    assert "pass_rate 0.25" in text
    assert "SELECT value FROM facts" in text
    assert re.search(r"Land +coast +12 +km", text)
    assert "⟦## Coast" in text
    assert "12 km⟧" in text
    assert re.search("evidence at 7[4-6] %", text)  # the second of two equal documents, in its middle
    assert "x" * 200 not in text  # only what stands around the evidence


def test_the_whole_context_on_demand(outputs):
    assert "x" * 400 in inspect(outputs, sample(3).id, whole_context=True)
    value = json.loads(inspect(outputs, sample(3).id, whole_context=True, as_json=True))
    assert value["context_text"].startswith('<document title="B ')
    assert value["evidence_positions"] == pytest.approx([0.75], abs=0.02)
    assert value["verification"]["pass_rate"] == 0.25


def test_the_beginning_of_an_id_is_enough_if_it_names_one(outputs):
    assert inspect(outputs, "multi_hop-").startswith("multi_hop-000000000063")
    with pytest.raises(InputError, match="30 samples have an id that begins with 'numerical-0'"):
        inspect(outputs, "numerical-0")


def test_a_question_without_a_context_is_shown_with_its_quotes(outputs):
    text = inspect(outputs, "numerical-early")
    assert "no context yet" in text
    assert "⟦## Coast" in text


def test_a_list_shows_samples_from_all_over_the_file(outputs):
    text = inspect(outputs, task="numerical", limit=3)
    assert "30 samples of numerical: numerical/lookup 30" in text
    assert [f"land {n}," in text for n in (0, 10, 20)] == [True, True, True]
    assert "27 more" in text
    assert len(json.loads(inspect(outputs, task="numerical", limit=3, as_json=True))) == 3
    assert "31 samples" in inspect(outputs, task="numerical", stage="synthesize")


def test_drops_of_every_stage_are_listed_by_reason(outputs):
    text = inspect(outputs, dropped="too_short", limit=2)
    assert text.count("ingest  too_short") == 2
    assert "1 more" in text
    assert "verify  near_duplicate" in inspect(outputs, dropped="all", stage="verify")
    assert len(json.loads(inspect(outputs, dropped="all", as_json=True))) == 4


def test_merges_are_listed_with_their_rule_and_both_places(outputs):
    lines = inspect(outputs, merges=True).split("\n")
    assert lines[0] == "2 merges in the knowledge graph: entity, alias 1; entity, normalised 1"
    assert lines[2].startswith("entity, alias: USA  is read as  United ")
    assert lines[2].endswith("(2 documents)")
    assert lines[3] == "    general/a[3:6]   general/b[9:12]"
    assert lines[5] == "    general/a[3:6]   general/b (its title)"
    assert "1 more" in inspect(outputs, merges=True, limit=1)
    assert [row["rule"] for row in json.loads(inspect(outputs, merges=True, as_json=True))] == ["alias", "normalised"]
    done = CliRunner().invoke(app, ["inspect", "--merges", "--outputs", str(outputs)])
    assert done.output.split("\n")[: len(lines)] == lines
    with pytest.raises(ConfigError, match="one of them"):
        inspect(outputs, merges=True, dropped="all")
    with pytest.raises(InputError, match=r"merges.jsonl does not exist. `longfuse run --only synthesize@multi_hop`"):
        inspect(outputs.parent, merges=True)


def test_a_dropped_sample_says_who_dropped_it_and_why(outputs):
    with pytest.raises(InputError, match="was dropped by verify: near_duplicate, asks the same as x"):
        inspect(outputs, sample(77).id)


def test_the_overview_counts_files_and_reasons(outputs):
    text = inspect(outputs)
    assert re.search(r"assemble +31 +multi_hop 1, numerical 30", text)
    assert re.search(r"ingest +3 +too_short", text)
    assert json.loads(inspect(outputs, as_json=True))["samples"]["verify"] == {"multi_hop": 1, "numerical": 30}


@pytest.mark.parametrize(
    "how",
    [
        {"sample_id": "multi_hop-"},
        {"task": "multi_hop"},
        {"dropped": "all"},
        {"merges": True},
        {"sample_id": "multi_hop-", "whole_context": True},
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_hostile_text_cannot_steer_the_terminal(outputs, how, as_json):
    assert has_no_control_characters(inspect(outputs, **how, as_json=as_json))


def test_escapes_are_visible():
    assert safe("a\x1b[31mb\u202e") == "a\\x1b[31mb\\u202e"
    assert safe("a\nb\tc", lines=True) == "a\nb\tc"
    assert safe("a\nb") == "a\\nb"


def test_mistakes_are_told(outputs, tmp_path):
    with pytest.raises(ConfigError, match="one of them"):
        inspect(outputs, "x", task="numerical")
    with pytest.raises(ConfigError, match=r"no task type 'numbers'\. Known: multi_hop"):
        inspect(outputs, task="numbers")
    with pytest.raises(ConfigError, match="--limit is 0"):
        inspect(outputs, task="numerical", limit=0)
    with pytest.raises(InputError, match="there is no sample 'nope'"):
        inspect(outputs, "nope")
    with pytest.raises(InputError, match="Reasons there are: near_duplicate, too_short"):
        inspect(outputs, dropped="boring")
    with pytest.raises(InputError, match=r"has left no samples\. There are those of: stratify/train"):
        inspect(outputs, task="numerical", stage="merge")
    with pytest.raises(InputError, match="holds no samples yet"):
        inspect(tmp_path / "nowhere")


def test_a_damaged_line_is_named(outputs):
    path = outputs / "assemble/data/samples.jsonl"
    path.write_text(path.read_text() + "{not json\n")
    with pytest.raises(InputError, match=r"samples\.jsonl:32 is not valid JSON"):
        inspect(outputs, sample(3).id)


def test_the_command_prints_what_the_function_returns(outputs):
    done = CliRunner().invoke(app, ["inspect", sample(3).id, "--outputs", str(outputs)])
    assert done.exit_code == 0, done.output
    assert "⟦## Coast" in done.output
    assert "\x1b" not in done.output  # no colour where there is no terminal
