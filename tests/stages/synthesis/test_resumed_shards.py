"""kill -9 in the middle of reading documents: finished shards are not read again, and the result is the same."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fact_corpus import country, document, starter_documents, write_documents

from stages.common.errors import InputError
from stages.common.file_ranges import line_ranges
from stages.common.records import Category
from stages.common.shards import SerialExecutor
from stages.synthesis import extraction, numerical_corpus
from stages.synthesis.extraction import extract, extract_shard
from stages.synthesis.numerical_corpus import _Found, _read_shard, read_figures
from stages.synthesis.shard_results import ExtractedFiles, JsonFiles, shard_key

HERE = Path(__file__).parent
SHARD = 150_000  # bytes: the starter corpus in two dozen shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents"), starter_documents())


READS = {
    "triples": (
        extraction,
        "extract_shard",
        "SHARD_BYTES",
        lambda folder, state: extract(folder, SerialExecutor(), False, state),
    ),
    "figures": (
        numerical_corpus,
        "_read_shard",
        "_SHARD_BYTES",
        lambda folder, state: read_figures(folder, SerialExecutor(), state),
    ),
}


@pytest.mark.parametrize("what", READS)
def test_a_killed_run_goes_on_at_the_shard(folder, tmp_path, monkeypatch, what):
    module, function, size, read = READS[what]
    monkeypatch.setattr(module, size, SHARD)
    shards = [shard for path in extraction.document_files(folder) for shard in line_ranges(path, SHARD)]
    whole = read(folder, None)
    kept = tmp_path / "state" / what
    command = [sys.executable, str(HERE / "killed_extraction.py"), what, str(folder), str(kept.parent), str(SHARD)]
    process = subprocess.Popen(command, cwd=HERE.parents[2], env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"})
    deadline = time.monotonic() + 120
    while finished(kept) < 2:
        assert process.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    time.sleep(0.5)  # its workers end by themselves
    done = finished(kept)
    assert 2 <= done < len(shards)

    ran = []
    original = getattr(module, function)
    monkeypatch.setattr(module, function, lambda shard, **how: (ran.append(shard), original(shard, **how))[1])
    assert equal(read(folder, kept.parent), whole)
    assert len(ran) == len(shards) - done
    ran.clear()
    assert equal(read(folder, kept.parent), whole)
    assert ran == []


def finished(folder):
    """Shards whose result is whole."""
    return len([*folder.glob("*.zip"), *folder.glob("*.gz")])


def equal(one, two):
    if not hasattr(one, "triples"):
        return one == two
    same = one.triples.equals(two.triples) and one.names.equals(two.names) and np.array_equal(one.phrases, two.phrases)
    return same and (one.dropped, one.documents) == (two.dropped, two.documents)


def test_other_documents_at_the_same_place_are_read_anew(tmp_path):
    state = tmp_path / "state"
    for capital in ("Algiers", "Tunis00"):  # as many bytes
        folder = write_documents(tmp_path / "documents", [country("Algeria", capital, "998 km", "Libya 989 km")])
        found = extract(folder, SerialExecutor(), False, state)
        assert capital in set(found.triples["tail_text"])
        assert len(list((state / "triples").iterdir())) == 1


def test_rules_and_parameters_are_in_the_key(tmp_path):
    folder = write_documents(tmp_path, [document("One", "x"), document("A paper", "y", Category.ACADEMIC)])
    pieces = [piece for name in ("general", "academic") for piece in line_ranges(folder / f"{name}.jsonl", SHARD)]
    keys = {shard_key(piece, what) for piece in pieces for what in ("triples 1 True", "triples 1 False")}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("files", "compute", "name"),
    [(ExtractedFiles(), lambda piece: extract_shard(piece, False), "a.zip"), (JsonFiles(_Found), _read_shard, "a.gz")],
)
def test_a_shard_comes_back_from_its_file_as_it_was_and_a_damaged_file_is_told(tmp_path, files, compute, name):
    documents = write_documents(tmp_path, starter_documents())
    for category in ("general", "professional"):
        piece = list(line_ranges(documents / f"{category}.jsonl", 1_000_000))[0 if category == "general" else -1]
        made = compute(piece)
        files.write(tmp_path / name, made)
        back = files.read(tmp_path / name)
        assert equal(made, back)
        if dataclasses.is_dataclass(made) and hasattr(made, "figures"):
            assert made.figures
            assert [str(figure.value) for figure in back.figures] == [str(figure.value) for figure in made.figures]
    whole = (tmp_path / name).read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"not a file", whole[:-9] + bytes(9)):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(InputError, match="cannot be read"):
            files.read(tmp_path / name)
