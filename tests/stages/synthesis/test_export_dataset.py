"""The exported dataset is one that the `datasets` library opens, with the same contexts either way."""

import json

import pytest
from sample_corpus import doc, store, value_sample

from flows.export import export_dataset
from stages.common.errors import ConfigError, InputError
from stages.common.prompts import materialise_context
from stages.common.records import AnswerKind, Span
from stages.common.storage import write_jsonl, write_text

PAGES = [doc(f"p{n}", f"# P{n}\n\n## Motto\n\nmotto {n}\n\n“quoted” <document> é\n") for n in range(4)]


def sample(number, **changes):
    page, other = PAGES[number], PAGES[(number + 1) % 3]
    context = [Span(document_id=d.id, start=2, end=len(d.text) - 1) for d in (other, page)]
    return value_sample(
        page, "Motto", f"motto {number}", id=f"reading_comprehension-{number}", context=context, **changes
    )


SAMPLES = [
    sample(0),
    sample(1, answer_kind=AnswerKind.SET, proof={"kind": "x", "rows": [{"n": 1}]}).model_copy(
        update={"answer": ["b", "a"]}
    ),
    sample(2),
]


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    for name, found in (("train", SAMPLES[:2]), ("sft", []), ("heldout", SAMPLES[2:])):
        write_jsonl(folder / "stratify" / "data" / f"{name}.jsonl", found)
    write_text(folder / "stratify" / "data" / "datacard.md", "# Data card\n")
    write_jsonl(folder / "assemble" / "data" / "documents.jsonl", PAGES)
    write_jsonl(
        folder / "verify" / "data" / "verification.jsonl",
        [{"id": SAMPLES[0].id, "model_checked": True, "pass_rate": 0.5}],
    )
    return folder


def opened(folder, tmp_path, monkeypatch, config="samples"):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    return datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"))


def test_references_and_documents_give_the_contexts_that_the_model_sees(outputs, tmp_path, monkeypatch):
    said = export_dataset(outputs, tmp_path / "out", form="hf", contexts="references")
    assert "train 2, sft 0, test 1" in said
    found = opened(tmp_path / "out", tmp_path, monkeypatch)
    assert {name: len(split) for name, split in found.items()} == {"train": 2, "test": 1}  # no empty split
    documents = {
        row["id"]: row["text"] for row in opened(tmp_path / "out", tmp_path, monkeypatch, "documents")["train"]
    }
    assert set(documents) == {page.id for page in PAGES[:3]}  # those that contexts show
    row = found["train"][0]
    parts = [documents[span["document_id"]][span["start"] : span["end"]] for span in row["context"]]
    assert parts == [PAGES[1].text[2:-1], PAGES[0].text[2:-1]]
    assert row["pass_rate"] == 0.5
    assert row["evidence"][0]["quote"] == SAMPLES[0].evidence[0].quote


def test_texts_are_the_prompts_themselves(outputs, tmp_path, monkeypatch):
    export_dataset(outputs, tmp_path / "out", form="hf", contexts="text")
    row = opened(tmp_path / "out", tmp_path, monkeypatch)["train"][1]
    expected = materialise_context(SAMPLES[1], store(tmp_path, *PAGES))
    assert row["context_text"] == expected
    assert expected in row["messages"][0]["content"]
    assert row["answers"] == ["b", "a"]
    assert row["answer"] == "b; a"
    assert json.loads(row["proof"]) == SAMPLES[1].proof
    assert not (tmp_path / "out" / "documents").exists()


def test_two_exports_are_equal_byte_by_byte(outputs, tmp_path):
    for name in ("a", "b"):
        export_dataset(outputs, tmp_path / name, form="hf", contexts="references")
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_what_cannot_be_exported_is_told(outputs, tmp_path):
    with pytest.raises(ConfigError, match="no format 'csv'"):
        export_dataset(outputs, tmp_path / "out", form="csv", contexts="text")
    with pytest.raises(ConfigError, match="--contexts is 'all'"):
        export_dataset(outputs, tmp_path / "out", form="hf", contexts="all")
    with pytest.raises(InputError, match="not an empty folder"):
        export_dataset(outputs, outputs, form="hf", contexts="text")
    with pytest.raises(InputError, match="holds no samples yet"):
        export_dataset(tmp_path / "nothing", tmp_path / "out", form="hf", contexts="text")
    assert not (tmp_path / "out").exists()
