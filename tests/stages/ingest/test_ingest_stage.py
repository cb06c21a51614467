"""The ingest stage as a whole: files, counts, bad corpora, and that a new document is parsed alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.records import Document, Dropped
from stages.common.shards import ProcessExecutor, SerialExecutor
from stages.common.storage import read_json, read_records
from stages.ingest.config import IngestConfig, IngestStage
from stages.ingest.stage import run

LONG = "words and more words, "
SETTINGS = {
    "sources": "data/mine",
    "min_characters": 20,
    "max_file_mb": 1.0,
    "max_file_seconds": 60.0,
    "max_duplicate_lines": 0.3,
    "max_repeated_ngrams": 0.5,
    "max_boilerplate": 0.2,
    "max_damaged": 0.005,
    "near_duplicate_similarity": 0.8,
    "decontaminate_against": "data/benchmarks",
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Counts words and punctuation."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


class Ingest:
    """Runs the stage on `corpus` again and again, with one state folder, and remembers what was new."""

    def __init__(self, tmp_path: Path, tokenizer: Path) -> None:
        self.corpus = tmp_path / "corpus"
        self.corpus.mkdir()
        self.benchmarks = tmp_path / "benchmarks"
        self.benchmarks.mkdir()
        self._tmp_path, self._tokenizer, self._runs = tmp_path, tokenizer, 0
        self.parsed = self.reused = -1

    def add(self, path: str, content: str | bytes) -> None:
        target = self.corpus / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def __call__(self, executor=None, **settings) -> Path:
        self._runs += 1
        out = self._tmp_path / f"out{self._runs}"
        state = self._tmp_path / "state" / f"fingerprint{self._runs}"
        out.mkdir()
        state.mkdir(parents=True)
        config = IngestStage(ingest=IngestConfig(**{**SETTINGS, **settings}))
        inputs = {"corpus": self.corpus, "tokenizer": self._tokenizer, "benchmarks": self.benchmarks}
        self.counts = run(config, inputs, out, state, self._emit, executor)
        return out

    def _emit(self, step: int, metrics) -> None:
        self.parsed, self.reused = metrics["perf/units_parsed"], metrics["perf/units_reused"]


@pytest.fixture
def ingest(tmp_path: Path, tokenizer: Path) -> Ingest:
    return Ingest(tmp_path, tokenizer)


def documents(out: Path) -> dict[str, Document]:
    paths = [*sorted((out / "documents").glob("*.jsonl")), out / "dialogues/dialogues.jsonl"]
    return {document.id: document for path in paths for document in read_records(path, Document)}


def dropped(out: Path) -> dict[str, str]:
    return {d.record["path"]: d.reason for d in read_records(out / "dropped.jsonl", Dropped)}


def bytes_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_one_file_per_category_empty_ones_included(ingest):
    ingest.add("professional/report.md", "# A report\n\nwith five words, no more")
    ingest.add("chat.json", json.dumps([{"role": "user", "content": LONG}]))
    out = ingest()
    assert sorted(bytes_of(out)) == [
        "boilerplate_grams.json",
        "dialogues/dialogues.jsonl",
        "documents/academic.jsonl",
        "documents/code.jsonl",
        "documents/general.jsonl",
        "documents/professional.jsonl",
        "dropped.jsonl",
        "notes.jsonl",
        "summary.json",
    ]
    document = documents(out)["professional/report"]
    assert document.model_dump(mode="json") == {
        "id": "professional/report",
        "category": "professional",
        "title": "A report",
        "text": "# A report\n\nwith five words, no more",
        "source": "professional/report.md",
        "format": "markdown",
        "tokens": 9,  # # A report with five words , no more
        "language": "",  # too little to tell
        "licence": None,
        "tables": [],
        "files": [],
    }
    assert (out / "documents/code.jsonl").read_bytes() == b""


def test_everything_bad_is_dropped_with_a_reason_and_counted(ingest):
    ingest.add("general/good.txt", LONG * 3)
    ingest.add("general/short.txt", "short")
    ingest.add("general/binary.txt", b"\x00" * 100)
    ingest.add("general/broken.txt", b"\xff\xfe\x00\xd8" * 9 + b"a")
    ingest.add("general/large.txt", "x" * 1_000_001)
    ingest.add("general/picture.png", b"\x89PNG")
    ingest.add("general/copy.md", LONG * 3 + "\n")
    ingest.add("general/blank.txt", "\n \n" * 100)
    ingest.add("general/combining.txt", "a" + "\u0301" * 5000)
    ingest.add("chats/bad.json", "[" * 100_000)
    ingest.add(
        "chats/c.jsonl", json.dumps([{"role": "user", "content": LONG}]) + '\n[{"role": "user", "content": "x"}]\n'
    )
    ingest.add("SOURCES.md", LONG)
    (ingest.corpus / "general/loop").symlink_to(".")
    (ingest.corpus / "general/gone.txt").symlink_to("nowhere")
    out = ingest()
    assert sorted(documents(out)) == ["dialogues/chats/c#000001", "general/copy"]
    expected = {
        "general/short.txt": "too_short",
        "general/binary.txt": "binary",
        "general/broken.txt": "unknown_encoding",
        "general/large.txt": "too_large",
        "general/picture.png": "unsupported_format",
        "general/good.txt": "duplicate",  # general/copy comes first
        "general/blank.txt": "too_short",
        "general/combining.txt": "bad_unicode",
        "chats/bad.json": "too_deep",
        "chats/c.jsonl:2": "too_short",
        "general/loop": "symlink_folder",
        "general/gone.txt": "unreadable",
    }
    assert dropped(out) == expected
    summary = read_json(out / "summary.json")
    assert summary["counts"]["dropped"] == sum(summary["dropped"].values()) == 12
    assert summary["dropped"]["too_short"] == 3
    assert summary["counts"]["skipped"] == 1
    assert summary["counts"] == ingest.counts
    assert summary["categories"]["general"]["documents"] == 1
    assert summary["formats"] == {"dialogue": 1, "markdown": 1}


def test_documents_are_sorted_by_id_and_runs_are_equal(ingest, tmp_path):
    for name in ("b", "a", "c/d", "C", "a!"):
        ingest.add(f"general/{name}.txt", f"{name} {LONG * 2}")
    first = ingest()
    ids = [document.id for document in read_records(first / "documents/general.jsonl", Document)]
    assert ids == sorted(ids)
    assert len(ids) == 5
    second = ingest()
    assert ingest.parsed == 0
    assert bytes_of(first) == bytes_of(second)
    assert str(tmp_path).encode() not in b"".join(bytes_of(first).values())


def test_a_new_document_is_parsed_alone(ingest):
    ingest.add("general/a.txt", "a" + LONG)
    ingest.add("code/p/p/a.py", "x = 1 # " + LONG)
    ingest()
    assert (ingest.parsed, ingest.reused) == (2, 0)
    ingest.add("general/b.txt", "b" + LONG)
    with_cache = ingest()
    assert (ingest.parsed, ingest.reused) == (1, 2)
    for path in (with_cache.parent / "state/parsed").iterdir():
        path.unlink()
    assert bytes_of(with_cache) == bytes_of(ingest())
    assert (ingest.parsed, ingest.reused) == (3, 0)


def test_a_changed_file_in_a_package_parses_that_package_again(ingest):
    ingest.add("code/p/p/a.py", "x = 1 # " + LONG)
    ingest.add("code/p/p/b.py", "y = 1 # " + LONG)
    ingest.add("code/q/a.py", "z = 1 # " + LONG)
    ingest()
    ingest.add("code/p/p/b.py", "y = 2 # " + LONG)
    out = ingest()
    assert (ingest.parsed, ingest.reused) == (1, 1)
    assert "y = 2" in documents(out)["code/p"].text


def test_other_limits_reuse_what_was_parsed(ingest):
    ingest.add("general/a.txt", LONG)
    ingest.add("general/b.txt", " ".join(f"word{number}" for number in range(50)))
    ingest()
    out = ingest(min_characters=100)
    assert (ingest.parsed, ingest.reused) == (0, 2)
    assert list(documents(out)) == ["general/b"]


@pytest.mark.parametrize(
    "damage", [b"", b'{"unit": {"docum', b"\xff\x00", b'{"unit": {"documents": [], "problems": []}}']
)
def test_a_damaged_cache_entry_is_parsed_again(ingest, damage):
    ingest.add("general/a.txt", LONG)
    first = ingest()
    (entry,) = (first.parent / "state/parsed").iterdir()
    entry.write_bytes(damage)
    assert bytes_of(ingest()) == bytes_of(first)
    assert ingest.parsed == 1
    ingest()
    assert ingest.parsed == 0


def test_the_cache_keeps_only_what_the_last_run_used(ingest):
    ingest.add("general/a.txt", LONG)
    out = ingest()
    ingest.add("general/a.txt", "other " + LONG)
    ingest()
    assert len(list((out.parent / "state/parsed").iterdir())) == 1


def test_a_file_that_moved_keeps_nothing_of_its_old_name(ingest):
    ingest.add("general/old_name.txt", LONG)
    ingest()
    (ingest.corpus / "general/old_name.txt").rename(ingest.corpus / "general/new_name.txt")
    assert documents(ingest())["general/new_name"].title == "new name"


def test_a_package_over_the_limit_is_dropped_whole(ingest):
    ingest.add("code/big/a.py", "x" * 600_000)
    ingest.add("code/big/b.py", "x" * 600_000)
    ingest.add("general/a.txt", LONG)
    out = ingest()
    assert dropped(out) == {"code/big": "too_large"}
    assert list(documents(out)) == ["general/a"]


def test_missing_file_and_empty_corpus_say_what_to_do(ingest):
    with pytest.raises(InputError, match=r"'data/mine', which holds no documents\. .*--corpus DIR"):
        ingest()
    ingest.corpus.rmdir()
    with pytest.raises(InputError, match=r"'data/mine', which does not exist\. .*--corpus DIR"):
        ingest()
    ingest.corpus.write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is a file, not a folder"):
        ingest()


def test_a_corpus_of_skipped_files_is_empty(ingest):
    ingest.add("SOURCES.md", LONG)
    ingest.add(".git/config", LONG)
    with pytest.raises(InputError, match="holds no documents"):
        ingest()


def test_nothing_usable_names_reasons_and_examples(ingest):
    ingest.add("a.docx", b"PK")
    ingest.add("b.txt", "tiny")
    with pytest.raises(
        NotEnoughDataError, match=r"2 files were looked at.*too_short 1, unsupported_format 1.*a\.docx: no reader"
    ):
        ingest()


def test_missing_tokenizer_says_which_stage_makes_it(ingest, tokenizer):
    ingest.add("general/a.txt", LONG)
    tokenizer.unlink()
    with pytest.raises(InputError, match="base_model"):
        ingest()


def test_starter_corpus_is_read_whole_but_for_what_benchmarks_hold(ingest):
    """The corpus that the default run reads: all five categories, sources and licences as SOURCES.md says."""
    project = Path(__file__).parents[3]
    starter = project / "data/starter_corpus"
    ingest.corpus.rmdir()
    ingest.corpus.symlink_to(starter)
    ingest.benchmarks.rmdir()
    ingest.benchmarks.symlink_to(project / "data/benchmarks")
    out = ingest(min_characters=200)
    summary = read_json(out / "summary.json")
    assert set(summary["dropped"]) <= {"contaminated"}
    lost = summary["dropped"].get("contaminated", 0)
    assert sum(summary["decontamination"]["documents_lost"].values()) >= lost
    expected = {"academic": 6, "code": 4, "dialogues": 11, "general": 40, "professional": 13}
    found = {name: row["documents"] for name, row in summary["categories"].items()}
    assert sum(expected.values()) - sum(found.values()) == lost <= 3
    assert {"academic": 6, "code": 4, "dialogues": 11}.items() <= found.items()
    size = sum(path.stat().st_size for path in starter.rglob("*") if path.is_file())
    assert size <= 3_500_000
    folders = {line.split("|")[1].strip() for line in (starter / "SOURCES.md").read_text().splitlines() if "|" in line}
    for document in documents(out).values():
        assert any(document.source == f or document.source.startswith(f + "/") for f in folders), document.source
        assert document.licence, document.source
        assert document.language == ("" if document.format == "csv" else "en"), document.source
        for table in document.tables:
            assert document.text[table.start : table.end].count("\n") == table.rows + 1
        for file in document.files:
            assert document.text[: file.start].endswith(f"# file: {file.path}\n")


def test_the_stage_loads_neither_torch_nor_transformers():
    code = "import sys, stages.ingest.stage; assert not {'torch', 'transformers', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bytes_do_not_depend_on_the_number_of_workers(ingest):
    for number in range(30):
        ingest.add(f"general/{number}.txt", f"number {number} {LONG * number}")
        ingest.add(f"code/p{number}/a.py", f"x = {number}\n" * 9)
    ingest.add("general/table.html", "<table><tr><td>a<td>b<tr><td>1<td>2</table>" + LONG)
    serial = bytes_of(ingest(SerialExecutor()))
    for workers in (1, 3):
        for path in (ingest.corpus.parent / "state/parsed").iterdir():
            path.unlink()
        assert bytes_of(ingest(ProcessExecutor(workers))) == serial
        assert ingest.reused == 0


def test_near_duplicates_keep_the_longest_and_name_it(ingest):
    words = [f"word{number}" for number in range(400)]
    ingest.add("general/b.txt", " ".join(words))
    ingest.add("general/a.txt", " ".join(words[:390]))
    ingest.add("general/c.txt", " ".join(words[:200]))  # half of it: another document
    ingest.add("general/d.txt", " ".join(reversed(words)))  # the same words, no common run of five
    out = ingest()
    assert dropped(out) == {"general/a.txt": "near_duplicate"}
    (drop,) = read_records(out / "dropped.jsonl", Dropped)
    assert drop.record["twin"] == "general/b"
    assert drop.record["beginning"].startswith("word0 word1")
    assert 0.9 < drop.record["similarity"] <= 1
    assert dropped(ingest(near_duplicate_similarity=1.0)) == {}


def test_a_benchmarks_question_answer_or_evidence_costs_the_document_but_boilerplate_does_not(ingest):
    def words(name: str, count: int) -> str:
        return " ".join(f"{name}{number}" for number in range(count))

    item = {
        "benchmark": "quiz",
        "id": "1",
        "question": words("question", 14),
        "answers": [words("answer", 13), "short"],
        "evidence": [words("evidence", 40), words("common", 20)],
    }
    (ingest.benchmarks / "quiz.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    (ingest.benchmarks / "README.md").write_text("of no account", encoding="utf-8")
    ingest.add("general/question.txt", f"{LONG} Question0, {words('question', 14)[10:].upper()}")
    ingest.add("general/answer.txt", f"{LONG} ({words('answer', 13)}).")
    ingest.add("general/evidence.txt", f"{LONG} {' - '.join(words('evidence', 25).split()[12:])}")
    ingest.add("general/twelve.txt", f"{LONG} {words('evidence', 12)} {words('question', 12)} short")
    for number in range(3):
        ingest.add(f"general/common{number}.txt", f"{words(f'own{number}x', 30)} {words('common', 20)}")
    out = ingest()
    gone = {d.record["path"]: d.record for d in read_records(out / "dropped.jsonl", Dropped)}
    assert {path: record["benchmarks"] for path, record in gone.items()} == {
        f"general/{name}.txt": ["quiz"] for name in ("question", "answer", "evidence")
    }
    assert gone["general/evidence.txt"]["overlap"] == words("evidence", 25)[words("evidence", 12).__len__() + 1 :]
    assert read_json(out / "summary.json")["decontamination"] == {
        "documents_lost": {"quiz": 3},
        "boilerplate_grams": 8,
    }
    assert len(read_json(out / "boilerplate_grams.json")) == 8
    (ingest.corpus / "general/common2.txt").unlink()  # in two documents only: no boilerplate
    assert {"general/common0.txt", "general/common1.txt"} <= dropped(ingest()).keys()
    (ingest.benchmarks / "quiz.jsonl").write_text('{"benchmark": 3}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"quiz\.jsonl: record 1 is no BenchmarkText"):
        ingest()


def test_poor_texts_are_dropped_with_what_was_measured(ingest):
    sentence = "Every line of this page tells the same story again and again without an end. "
    ingest.add("general/lines.txt", (sentence + "\n") * 20)
    ingest.add("general/grams.txt", sentence * 20)
    ingest.add("general/mojibake.txt", "".join(f"cafÃ© number {n} was closed. " for n in range(30)))
    ingest.add(
        "general/cookies.txt", "We use cookies to improve this site.\nAccept all cookies\nSome text of a page.\n"
    )
    ingest.add("general/blob.txt", "x" * 60_000)
    ingest.add("general/good.txt", " ".join(f"Page {n} says {n * n}." for n in range(50)))
    out = ingest()
    details = {d.record["path"]: (d.reason, d.detail) for d in read_records(out / "dropped.jsonl", Dropped)}
    assert {path: reason for path, (reason, _) in details.items()} == {
        "general/lines.txt": "repetitive",
        "general/grams.txt": "repetitive",
        "general/mojibake.txt": "damaged",
        "general/cookies.txt": "boilerplate",
        "general/blob.txt": "unbroken",
    }
    assert "95.0% stands in lines that occurred before, more than 30.0%" in details["general/lines.txt"][1]
    repeated = ingest(max_duplicate_lines=1.0, max_repeated_ngrams=1.0)
    assert {"general/lines", "general/grams"} & documents(repeated).keys()


def test_licences_come_from_the_head_the_nearest_licence_file_or_sources_md(ingest):
    ingest.add(
        "SOURCES.md", "| folder | what | licence |\n|---|---|---|\n| general/free | x | CC0 |\n| code/p | y | GPL |\n"
    )
    ingest.add("general/free/a.txt", "a" + LONG)
    ingest.add("general/b.txt", "b" + LONG)
    ingest.add("code/p/LICENSE", "Permission is hereby granted, free of charge, to any person obtaining a copy")
    ingest.add("code/p/a.py", "p = 1 # " + LONG)
    ingest.add("code/q/a.py", "# SPDX-License-Identifier: Apache-2.0\nq = 1 # " + LONG)
    found = documents(ingest())
    assert {name: document.licence for name, document in found.items()} == {
        "general/free/a": "CC0",
        "general/b": None,
        "code/p": "MIT",  # the file beside the code says more than the list
        "code/q": "Apache-2.0",
    }


def test_lines_of_text_in_jsonl_are_documents_of_their_own(ingest):
    lines = [{"text": f"{n} {LONG * 2}", "title": f"Title {n}"} for n in range(2)]
    lines.append({"messages": [{"role": "user", "content": LONG}]})
    ingest.add("dump.jsonl", "\n".join(map(json.dumps, lines)))
    found = documents(ingest())
    assert {name: (document.format, document.title) for name, document in found.items()} == {
        "general/dump#000001": ("text", "Title 0"),
        "general/dump#000002": ("text", "Title 1"),
        "dialogues/dump#000003": ("dialogue", "dump 3"),
    }
