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
from stages.common.storage import read_json, read_records
from stages.ingest.config import IngestConfig, IngestStage
from stages.ingest.stage import run

LONG = "words and more words, "


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
        self._tmp_path, self._tokenizer, self._runs = tmp_path, tokenizer, 0
        self.parsed = self.reused = -1

    def add(self, path: str, content: str | bytes) -> None:
        target = self.corpus / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def __call__(self, min_characters: int = 20, max_file_mb: float = 1.0) -> Path:
        self._runs += 1
        out = self._tmp_path / f"out{self._runs}"
        state = self._tmp_path / "state" / f"fingerprint{self._runs}"
        out.mkdir()
        state.mkdir(parents=True)
        config = IngestStage(
            ingest=IngestConfig(sources="data/mine", min_characters=min_characters, max_file_mb=max_file_mb)
        )
        self.counts = run(config, {"corpus": self.corpus, "tokenizer": self._tokenizer}, out, state, self._emit)
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
        "dialogues/dialogues.jsonl",
        "documents/academic.jsonl",
        "documents/code.jsonl",
        "documents/general.jsonl",
        "documents/professional.jsonl",
        "dropped.jsonl",
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
    }
    assert (out / "documents/code.jsonl").read_bytes() == b""


def test_everything_bad_is_dropped_with_a_reason_and_counted(ingest):
    ingest.add("general/good.txt", LONG * 3)
    ingest.add("general/short.txt", "short")
    ingest.add("general/binary.txt", b"\x00" * 100)
    ingest.add("general/latin.txt", "café ".encode("latin-1") * 20)
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
        "general/latin.txt": "not_utf8",
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
    ingest.add("general/b.txt", LONG * 9)
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
    ingest.add("a.pdf", b"%PDF")
    ingest.add("b.txt", "tiny")
    with pytest.raises(
        NotEnoughDataError, match=r"2 files were looked at.*too_short 1, unsupported_format 1.*a\.pdf: no reader"
    ):
        ingest()


def test_missing_tokenizer_says_which_stage_makes_it(ingest, tokenizer):
    ingest.add("general/a.txt", LONG)
    tokenizer.unlink()
    with pytest.raises(InputError, match="base_model"):
        ingest()


def test_starter_corpus_is_read_whole(ingest):
    """The corpus that the default run reads: nothing dropped, all five categories, sources as SOURCES.md says."""
    starter = Path(__file__).parents[3] / "data/starter_corpus"
    ingest.corpus.rmdir()
    ingest.corpus.symlink_to(starter)
    out = ingest(min_characters=200)
    summary = read_json(out / "summary.json")
    assert summary["dropped"] == {}
    assert {name: row["documents"] for name, row in summary["categories"].items()} == {
        "academic": 6,
        "code": 4,
        "dialogues": 11,
        "general": 40,
        "professional": 13,
    }
    size = sum(path.stat().st_size for path in starter.rglob("*") if path.is_file())
    assert size <= 3_500_000
    folders = {line.split("|")[1].strip() for line in (starter / "SOURCES.md").read_text().splitlines() if "|" in line}
    for document in documents(out).values():
        assert any(document.source == f or document.source.startswith(f + "/") for f in folders), document.source


def test_the_stage_loads_neither_torch_nor_transformers():
    code = "import sys, stages.ingest.stage; assert not {'torch', 'transformers', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
