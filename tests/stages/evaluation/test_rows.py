"""Benchmark files with broken rows: what can be used is used, the rest is counted and named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asking_world import ask, planned, question

from stages.common.errors import ConfigError, InputError
from stages.evaluation.base import Availability, Benchmark, BrokenRow, LoadRequest
from stages.evaluation.rows import find_file, questions_of, read_rows
from stages.evaluation.selection import benchmark_named, select
from stages.evaluation.session import write_evaluation

GOOD = {"id": "a", "question": "Capital of Norway?", "answer": "Oslo"}


def parse(row):
    if len(row["answer"]) < 2:
        raise ValueError("answer is too short")
    return question(row["id"], row["answer"], question=row["question"])


def load_request(folder, limit=None):
    return LoadRequest(
        data_dir=folder, use_hub=False, limit=limit, lengths=(100,), seed=1, count_tokens=len, documents=None
    )


def capitals(name="capitals"):
    def available(request):
        found = find_file(request, name, ("data.jsonl",))
        return Availability(found is not None, "data.jsonl" if found else "get it somewhere")

    def load(request):
        rows, broken = read_rows(find_file(request, name, ("data.jsonl",)))
        return questions_of(rows, parse, broken, request.limit)

    return Benchmark(name=name, title="capitals", source="made up", available=available, load=load)


BROKEN_LINES = [
    b'{"id": "b", "question": "Capital of Pe',  # torn
    b"\xff\xfe\x00",
    b'["a list"]',
    b'{"id": "c", "question": "No answer?"}',
    b'{"id": "d", "question": "Short?", "answer": "x"}',
    b'{"id": "e", "question": "Null?", "answer": null}',
    b'{"id": "f", "question": "\\ud800", "answer": "Rome"}',
    b"[" * 100_000,
]


@pytest.fixture
def broken_file(tmp_path):
    folder = tmp_path / "capitals"
    folder.mkdir()
    again = {**GOOD, "answer": "Bergen"}
    lines = [json.dumps(GOOD).encode(), *BROKEN_LINES, b"", json.dumps(again).encode()]
    lines.append(json.dumps({"id": "g", "question": "Capital of Peru?", "answer": "Lima"}).encode())
    (folder / "data.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "data.jsonl"


def test_broken_rows_are_left_out_counted_and_named(broken_file):
    rows, broken = read_rows(broken_file)
    loaded = questions_of(rows, parse, broken)
    assert [(q.id, q.gold) for q in loaded.questions] == [("a", "Oslo"), ("g", "Lima")]
    reasons = {row.where: row.reason for row in loaded.broken}
    assert len(reasons) == len(BROKEN_LINES) + 1
    assert reasons["data.jsonl:2"].startswith("no JSON")
    assert reasons["data.jsonl:3"].startswith("no JSON")
    assert reasons["data.jsonl:4"] == "a list where an object was expected"
    assert reasons["data.jsonl:5"] == "no field 'answer'"
    assert reasons["data.jsonl:6"] == "ValueError: answer is too short"
    assert reasons["data.jsonl:7"].startswith("TypeError")
    assert "surrogates" in reasons["data.jsonl:8"]
    assert reasons["data.jsonl:9"].startswith("no JSON")
    assert reasons["data.jsonl:11"] == "a second question named a"


def test_a_limit_ends_the_reading():
    rows = [(f"x:{i}", {**GOOD, "id": str(i)}) for i in range(5)]
    assert [q.id for q in questions_of(rows, parse, limit=2).questions] == ["0", "1"]
    several = questions_of(rows, lambda row: [question(row["id"] + part) for part in "ab"], limit=3)
    assert [q.id for q in several.questions] == ["0a", "0b", "1a"]


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_lists_and_parquet_are_read_as_well(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps([GOOD, 3]))
    else:
        pq.write_table(pa.Table.from_pylist([GOOD]), path)
    rows, broken = read_rows(path)
    assert rows == [(f"data{suffix}:1", GOOD)]
    assert [row.where for row in broken] == (["data.json:2"] if suffix == ".json" else [])
    path.write_bytes(b"neither")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(path)


def test_a_file_is_looked_for_in_the_benchmarks_folder_first(tmp_path):
    (tmp_path / "musique").mkdir()
    (tmp_path / "data.jsonl").touch()
    asked = load_request(tmp_path)
    assert find_file(asked, "musique", ("data.jsonl",)) == tmp_path / "data.jsonl"
    (tmp_path / "musique" / "data.jsonl").touch()
    assert find_file(asked, "musique", ("data.jsonl",)) == tmp_path / "musique" / "data.jsonl"
    assert find_file(asked, "musique", ("*.parquet",)) is None
    assert find_file(load_request(None), "musique", ("data.jsonl",)) is None


def test_what_cannot_be_asked_is_told_with_the_reason(broken_file, tmp_path):
    full_only = Benchmark(**{**vars(capitals("closed")), "modes": ("full_context",)})
    missing = capitals("elsewhere")
    broken_file.with_name("empty").mkdir()
    (broken_file.parent / "empty" / "data.jsonl").write_bytes(b"no json\n")
    empty = capitals("empty")
    folders = {"capitals": tmp_path, "empty": broken_file.parent, "closed": tmp_path, "elsewhere": tmp_path / "none"}
    chosen = select(
        [capitals(), full_only, missing, empty],
        ["closed_book"],
        lambda benchmark: load_request(folders[benchmark.name]),
    )
    assert [item.key for item in chosen.planned] == [
        ("capitals", "closed_book", "a"),
        ("capitals", "closed_book", "g"),
    ]
    assert chosen.skipped == {
        "closed": "it is asked in the modes full_context only",
        "elsewhere": "get it somewhere",
        "empty": "not one usable question (1 broken rows)",
    }
    assert {name: len(rows) for name, rows in chosen.broken.items()} == {"capitals": 9, "empty": 1}


def test_skipped_and_broken_stand_in_the_scores(tmp_path):
    evaluation = ask(planned(question()), tmp_path / "state").evaluation
    gaps = evaluation.with_gaps({"gone": "not at hand"}, {"x": [BrokenRow("x:1", "why")] * 30})
    write_evaluation(tmp_path / "out", "me", gaps)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["skipped"] == [{"benchmark": "gone", "reason": "not at hand"}]
    (broken,) = scores["broken_rows"]
    assert (broken["count"], len(broken["rows"]), broken["rows"][0]) == (30, 20, {"where": "x:1", "reason": "why"})


def test_a_name_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'capitals'"):
        benchmark_named("capital", {"capitals": capitals()})
