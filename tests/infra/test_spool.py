"""The files through which a stage's process talks to the tracker."""

import math

from infra.records import flatten_params, is_kept, key_of, output_pointers
from infra.settings import load_settings
from infra.spool import MetricSpool, SpoolReader, read_announcement, start_stage_run


def points(path):
    return [(line["step"], line["metrics"]) for line in SpoolReader(path).new_lines()]


def test_reader_gets_each_line_once_and_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "s.jsonl"
    spool, reader = MetricSpool(path), SpoolReader(path)
    assert list(reader.new_lines()) == []
    spool.emit(0, {"reward/mean": 0.5})
    assert [line["metrics"] for line in reader.new_lines()] == [{"reward/mean": 0.5}]
    spool.close()
    with path.open("a") as file:
        file.write('{"step": 1, "time_ms": 1, "me')
    assert list(reader.new_lines()) == []
    with path.open("a") as file:
        file.write('trics": {"x": 1.0}}\n')
    assert [line["step"] for line in reader.new_lines()] == [1]


def test_interrupted_spool_is_continued_even_after_half_a_line(tmp_path):
    path = tmp_path / "s.jsonl"
    first = MetricSpool(path)
    first.emit(0, {"x": 1.0})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 1, "ti')  # killed while it wrote
    again = MetricSpool(path)
    again.emit(1, {"x": 2.0})
    again.close()
    assert points(path) == [(0, {"x": 1.0}), (1, {"x": 2.0})]


def test_finished_spool_is_begun_anew(tmp_path):
    path = tmp_path / "s.jsonl"
    first = MetricSpool(path)
    first.emit(0, {"x": 1.0})
    first.finish()
    assert points(path) == [(0, {"x": 1.0})]
    MetricSpool(path).close()
    assert points(path) == []


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    spool = MetricSpool(tmp_path / "s.jsonl")
    spool.emit(0, {"a": math.nan, "b": math.inf, "c": 1.0})
    spool.close()
    assert points(tmp_path / "s.jsonl") == [(0, {"c": 1.0})]


def test_stage_announces_itself_only_within_a_pipeline_run(tmp_path):
    alone = load_settings(tmp_path, {})
    within = alone.model_copy(update={"parent_run": "p1"})
    paths = {"state_dir": tmp_path / "s", "data_dir": tmp_path / "d", "record": tmp_path / "r.json"}
    start_stage_run(alone, stage="rl@stage1", fingerprint="f", params={"a": 1}, **paths).close()
    assert read_announcement(alone, "p1", "rl@stage1") is None
    start_stage_run(within, stage="rl@stage1", fingerprint="f", params={"a": {"b": 1}}, **paths).close()
    announced = read_announcement(within, "p1", "rl@stage1")
    assert announced is not None
    assert (announced.stage, announced.fingerprint, announced.params) == ("rl@stage1", "f", {"a": {"b": 1}})
    assert announced.record == str(tmp_path / "r.json")


def test_at_most_two_thousand_points_of_a_million_are_kept():
    kept = [n for n in range(1_000_000) if is_kept(n)]
    assert kept[:1000] == list(range(1000))
    assert 1900 <= len(kept) <= 2000
    assert [n for n in kept if 1000 <= n < 2000] == list(range(1000, 2000, 10))


def test_small_helpers():
    assert key_of("rl@stage1") == "rl.stage1"
    assert flatten_params({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": [1, 2], "d": None}
    entry = {"cmd": "x", "outs": [{"path": "o", "hash": "md5", "md5": "m.dir", "size": 9, "nfiles": 2}]}
    assert output_pointers(entry) == [{"path": "o", "md5": "m.dir", "size": 9}]
