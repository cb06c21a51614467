"""A corpus of everything that files can do to a reader: each bad one is dropped with a reason, and nothing else is lost."""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import os
import signal
import time

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_binary_readers import workbook, zip_of
from test_ingest_stage import LONG, Ingest, bytes_of, documents, dropped, ingest, tokenizer  # noqa: F401  fixtures

from stages.common.records import Category, Document, SourceFile
from stages.common.shards import ProcessExecutor, SerialExecutor
from stages.common.storage import iter_json_lines, read_records
from stages.common.tokens import TokenCounter
from stages.ingest.clean import clean
from stages.ingest.counting import count_tokens
from stages.ingest.decontaminate import GRAM_WORDS
from stages.ingest.limits import limited
from stages.ingest.near_duplicates import near_duplicates, signature_of, similarity
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.repository import read_repository
from stages.ingest.words import WordHasher, gram_hashes, words_of


def test_each_bad_file_is_dropped_with_its_reason_and_the_good_ones_stay(ingest: Ingest) -> None:  # noqa: F811
    corpus = ingest.corpus
    ingest.add("general/good.txt", f"good {LONG}")
    ingest.add("general/page.html", f"<script>steal()</script><p>page {LONG}<img src=x onerror=steal()>")
    ingest.add("general/ragged.html", f"<p>ragged {LONG}<table><tr><th colspan=2>a<tr><td>1<tr><td>2<td>3<td>4</table>")
    ingest.add("general/mixed.txt", f"café crème {LONG}\nthé vert\n".encode() + b"d\xe9j\xe0 vu\n")
    ingest.add("general/packed.txt.gz", gzip.compress(f"packed {LONG}".encode()))
    ingest.add("general/bomb.txt.gz", gzip.compress(b"0" * 50_000_000))
    ingest.add("general/torn.txt.gz", gzip.compress(os.urandom(5000))[:-100])
    ingest.add("general/bomb.xlsx", zip_of("xl/bomb.xml", 100_000_000, workbook(["a"])))
    ingest.add("general/letter.docx", b"PK\x03\x04")
    ingest.add("general/fake.pdf", "no PDF " * 50)
    ingest.add("general/deep.json", '{"a":' * 100_000)
    ingest.add("general/deep.html", "<div>" * 5000)
    ingest.add("general/line.txt", "x" * 900_000)
    ingest.add("general/new\nline.txt", LONG)
    (corpus / "general/loop").symlink_to("..")
    (corpus / "general/passwd.txt").symlink_to("/etc/passwd")
    os.mkfifo(corpus / "general/pipe.txt")
    with (corpus / "general/huge.txt").open("wb") as file:
        file.truncate(1 << 30)  # a line of a gigabyte, sparse on the disk
    started = time.monotonic()
    out = ingest(ProcessExecutor(2))
    assert time.monotonic() - started < 60
    assert dropped(out) == {
        "general/bomb.txt.gz": "too_large",
        "general/torn.txt.gz": "bad_gzip",
        "general/bomb.xlsx": "too_large",
        "general/letter.docx": "unsupported_format",
        "general/fake.pdf": "bad_pdf",
        "general/deep.json": "too_deep",
        "general/deep.html": "too_deep",
        "general/line.txt": "unbroken",
        r"general/new\nline.txt": "bad_name",
        "general/loop": "symlink_folder",
        "general/passwd.txt": "symlink_outside",
        "general/pipe.txt": "not_a_file",
        "general/huge.txt": "too_large",
    }
    found = documents(out)
    assert sorted(found) == [f"general/{name}" for name in ("good", "mixed", "packed", "page", "ragged")]
    assert "steal" not in found["general/page"].text
    assert "| a | a |  |\n|---|---|---|\n| 1 |  |  |\n| 2 | 3 | 4 |" in found["general/ragged"].text
    assert [table.rows for table in found["general/ragged"].tables] == [2]
    assert list(iter_json_lines(out / "notes.jsonl")) == [
        {"path": "general/mixed.txt", "note": "1 of 4 lines are no UTF-8 and were decoded as cp1252"}
    ]


class DyingExecutor:
    """Whatever shard holds `victim` kills its worker."""

    def __init__(self, victim: str) -> None:
        self._victim = victim

    def map(self, function, shards, failed=None):
        for shard in shards:
            dies = any(unit.source == self._victim for unit in shard)
            yield failed(shard, "a worker process died twice") if dies else function(shard)


def test_a_file_that_kills_its_reader_is_dropped_alone(ingest: Ingest) -> None:  # noqa: F811
    for name in "abc":
        ingest.add(f"general/{name}.txt", f"{name} {LONG}")
    out = ingest(DyingExecutor("general/b.txt"))
    assert dropped(out) == {"general/b.txt": "crashed"}
    assert sorted(documents(out)) == ["general/a", "general/c"]
    assert dropped(ingest()) == {}  # another day, another outcome: it was not remembered


class StoppedExecutor(SerialExecutor):
    """Ends after some shards, as Ctrl-C does."""

    def map(self, function, shards, failed=None):
        for number, result in enumerate(super().map(function, shards, failed)):
            if number == 2:
                raise KeyboardInterrupt
            yield result


def test_an_interrupted_run_resumes_where_it_stopped(ingest: Ingest) -> None:  # noqa: F811
    for number in range(5):
        ingest.add(f"general/{number}.html", f"<p>{number} {LONG}")  # a shard each
    with pytest.raises(KeyboardInterrupt):
        ingest(StoppedExecutor())
    resumed = ingest(SerialExecutor())
    assert (ingest.parsed, ingest.reused) == (2, 3)
    for path in (resumed.parent / "state/parsed").iterdir():
        path.unlink()
    assert bytes_of(ingest(SerialExecutor())) == bytes_of(resumed)


def parse_for_ever() -> None:
    while True:
        with contextlib.suppress(Exception):  # as parsers do
            json.loads("[" * 900)


# What other tests left to be collected may have weak references with callbacks, of which the alarm knows nothing: it rings again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_reader_runs_longer_than_its_limit() -> None:
    started = time.monotonic()
    with pytest.raises(UnusableError) as error, limited(0.2):
        parse_for_ever()
    assert error.value.reason is DropReason.TOO_SLOW
    assert time.monotonic() - started < 60


def test_an_alarm_during_a_garbage_collection_is_not_lost() -> None:
    """What is raised in a collector's callback is printed and lost; hypothesis has such a callback."""
    during: list[str] = []

    def callback(phase: str, info: dict[str, int]) -> None:
        del info
        if phase == "start" and not during:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:  # the alarm rings here
                during[:] = [phase]

    gc.callbacks.append(callback)
    try:
        with pytest.raises(UnusableError) as error, limited(0.1):
            parse_for_ever()
    finally:
        gc.callbacks.remove(callback)
    assert error.value.reason is DropReason.TOO_SLOW
    assert during


class Slow:
    def __del__(self) -> None:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass


def test_an_alarm_during_a_finalizer_is_not_lost() -> None:
    held = [Slow()]

    def parse() -> None:
        held.pop()  # finalized here, and the alarm rings meanwhile
        parse_for_ever()

    with pytest.raises(UnusableError) as error, limited(0.1):
        parse()
    assert error.value.reason is DropReason.TOO_SLOW


def test_the_limit_leaves_an_outer_timer_running() -> None:
    outer_left, outer_every = signal.setitimer(signal.ITIMER_REAL, 500, 7)
    try:
        with limited(100):
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        assert 490 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer_left, outer_every)


def test_readers_out_of_memory_or_stack_give_a_reason() -> None:
    def deeper() -> None:
        deeper()

    with pytest.raises(UnusableError) as error, limited(5):
        deeper()
    assert error.value.reason is DropReason.TOO_DEEP
    with pytest.raises(UnusableError) as error, limited(5):
        raise MemoryError
    assert error.value.reason is DropReason.OUT_OF_MEMORY


def test_a_large_text_is_read_in_bounded_memory(ingest: Ingest) -> None:  # noqa: F811
    words = " ".join(f"w{number}" for number in range(300_000))
    ingest.add("general/one_line.txt", words)  # 2.3 MB without a line break
    before = psutil.Process().memory_info().rss
    out = ingest(SerialExecutor(), max_file_mb=10)
    assert documents(out)["general/one_line"].tokens == 300_000
    assert psutil.Process().memory_info().rss - before < 500_000_000


_CODE = st.text(alphabet="ab \t\n#\r", max_size=40)


@given(st.dictionaries(st.from_regex(r"[a-c]{1,3}\.py", fullmatch=True), _CODE, min_size=1, max_size=5))
def test_a_repositorys_file_map_holds_each_files_text(files: dict[str, str]) -> None:
    contents = {f"code/p/{name}": text.encode() for name, text in files.items()}
    (document,) = read_repository("code/p", contents).documents
    assert [file.path for file in document.files] == list(files)
    assert clean(document.text).startswith(document.text.rstrip("\n")[:5])
    for file in document.files:
        assert isinstance(file, SourceFile)
        assert document.text[: file.start].endswith(f"# file: {file.path}\n")
        assert document.text[file.start : file.end].split() == clean(files[file.path]).split()


@given(st.lists(st.sampled_from(["alpha", "beta", "Gamma,", "1,496.5", "x-y", "漢字"]), max_size=30), st.integers(1, 4))
def test_hashes_of_grams_are_those_of_their_words(words: list[str], n: int) -> None:
    found = words_of(" ".join(words))
    hashes = gram_hashes(WordHasher()(found), n)
    grams = [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]
    assert len(hashes) == len(grams)
    assert len(set(hashes.tolist())) == len(set(grams))
    by_gram = dict(zip(grams, hashes.tolist(), strict=True))
    assert all(by_gram[gram] == value for gram, value in zip(grams, hashes.tolist(), strict=True))


def test_words_are_lower_case_with_their_inner_points() -> None:
    assert words_of("Don't pay $1,496.5—or 漢字!") == ["don't", "pay", "1,496.5", "or", "漢", "字"]
    assert GRAM_WORDS == 13


def test_hashes_are_the_same_in_every_process() -> None:
    # printf alpha | b2sum -l 64
    assert WordHasher()(["alpha"]).astype("<u8").tobytes().hex() == "5306d220eac8089a"


@given(st.integers(0, 60), st.integers(0, 3))
def test_similarity_estimates_jaccard(changed: int, seed: int) -> None:
    hasher = WordHasher()
    base = [f"w{seed}x{number}" for number in range(300)]
    other = [f"v{number}" for number in range(changed)] + base[changed:]
    first, second = (gram_hashes(hasher(words), 5) for words in (base, other))
    jaccard = len(np.intersect1d(first, second)) / len(np.union1d(first, second))
    estimate = similarity(signature_of(hasher(base)), signature_of(hasher(other)))
    assert abs(estimate - jaccard) < 0.2  # 4.5 standard errors


@given(st.randoms(use_true_random=False))
def test_which_near_duplicate_survives_does_not_depend_on_the_order(random) -> None:
    hasher = WordHasher()
    texts = [[f"f{family}w{number}" for number in range(120 - 2 * copy)] for family in range(3) for copy in range(4)]
    signatures = [signature_of(hasher(words)) for words in texts]
    rank = list(range(len(texts)))  # the longest of each family first
    expected = {index: (index // 4) * 4 for index in range(len(texts)) if index % 4}
    order = list(range(len(texts)))
    random.shuffle(order)
    gone = near_duplicates([signatures[i] for i in order], [rank[i] for i in order], 0.8)
    assert {order[index]: order[twin] for index, (twin, _) in gone.items()} == expected


def test_tokens_of_long_texts_are_counted_as_of_short_ones(tokenizer) -> None:  # noqa: F811
    counter = TokenCounter(tokenizer)
    text = "".join(f"line {number}, then more.\n" * 7 for number in range(9_000))
    assert len(text) > 20 * 50_000
    assert count_tokens(counter, text) == counter.count(text) == 7 * 9_000 * 6


def test_old_document_files_still_load(tmp_path) -> None:
    old = {
        "id": "general/a",
        "category": "general",
        "title": "a",
        "text": "t",
        "source": "a",
        "format": "text",
        "tokens": 1,
    }
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n", encoding="utf-8")
    (document,) = read_records(tmp_path / "old.jsonl", Document)
    assert (document.category, document.tables, document.licence) == (Category.GENERAL, [], None)
