"""Map steps over shards: order, workers that die, what is left behind, and resuming."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import EnvironmentFailureError, InputError
from stages.common.file_ranges import iter_range, line_ranges
from stages.common.records import Span
from stages.common.resumable import JsonLinesResults, ParquetResults, resumable_map
from stages.common.shards import ProcessExecutor, SerialExecutor, groups_by_weight, usable_cores
from stages.common.storage import write_jsonl


def slow_square(shard: int) -> int:
    time.sleep(0.02 if shard % 3 == 0 else 0)  # later shards overtake
    return shard * shard


def die_at_three(shard: int, when_alone: bool, folder: Path) -> int:
    """Shard 3 kills its worker: always, or only the first time."""
    mark = folder / "died"
    if shard == 3 and (when_alone or not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shard


def stop_at_two(shard: int) -> int:
    if shard == 2:
        raise InputError("shard 2 is no good")
    return shard


def spans_of(shard: int, log: Path) -> list[Span]:
    with log.open("a") as file:
        file.write(f"{shard}\n")
    return [Span(document_id=f"d{shard}", start=0, end=number) for number in range(shard)]


def table_of(shard: int) -> pa.Table:
    return pa.table({"value": [shard, shard + 1]})


def children() -> list[psutil.Process]:
    """Worker processes; multiprocessing's resource tracker lives as long as this process."""
    # Nor is the simulated cloud that other tests of this process share.
    others = ("resource_tracker", "infra.sim")
    lines = [(child, " ".join(child.cmdline())) for child in psutil.Process().children()]
    return [child for child, line in lines if not any(other in line for other in others)]


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(1), ProcessExecutor(3)])
def test_results_come_in_the_order_of_the_shards(executor):
    assert list(executor.map(slow_square, range(20))) == [number * number for number in range(20)]
    assert list(executor.map(slow_square, [])) == []


def test_only_a_few_shards_are_in_flight():
    taken = []

    def shards():
        for number in range(100):
            taken.append(number)
            yield number

    results = ProcessExecutor(2).map(slow_square, shards())
    for done in range(1, 20):
        next(results)
        assert len(taken) <= done + 4
    results.close()
    assert children() == []


def test_an_error_of_the_function_is_raised_and_ends_the_workers():
    results = ProcessExecutor(2).map(stop_at_two, range(100))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="shard 2 is no good"):
        next(results)
    assert children() == []


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    step = functools.partial(die_at_three, when_alone=False, folder=tmp_path)
    assert list(ProcessExecutor(2).map(step, range(12))) == list(range(12))
    assert (tmp_path / "died").exists()


def test_a_shard_that_kills_its_worker_again_is_a_clear_error_or_what_failed_makes_of_it(tmp_path):
    step = functools.partial(die_at_three, when_alone=True, folder=tmp_path)
    results = ProcessExecutor(2).map(step, range(12))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EnvironmentFailureError, match=r"a worker process died twice.*on shard 3 \(3\)"):
        next(results)
    assert list(ProcessExecutor(2).map(step, range(6), failed=lambda shard, why: -shard)) == [0, 1, 2, -3, 4, 5]
    assert children() == []


_SCRIPT = """
import sys, time
from stages.common.shards import ProcessExecutor
if __name__ == "__main__":
    for _ in ProcessExecutor(2).map(time.sleep, [0, 0, 100, 100, 100]):
        print("one", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_an_interrupt_or_a_kill_of_the_parent(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert parent.stdout is not None
    assert [parent.stdout.readline(), parent.stdout.readline()] == [b"one\n", b"one\n"]
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.send_signal(how)
    assert parent.wait(timeout=20) != 0
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    parent.communicate()


def test_finished_shards_are_not_computed_again_and_give_the_same(tmp_path):
    log, state = tmp_path / "log", tmp_path / "state"
    step = functools.partial(spans_of, log=log)

    def mapped(shards, version="1", executor=None):
        return resumable_map(
            executor or SerialExecutor(),
            step,
            shards,
            state,
            functools.partial("{1}:{0}".format, version),
            JsonLinesResults(Span),
        )

    interrupted = mapped(range(4))
    first = [next(interrupted), next(interrupted)]
    interrupted.close()
    again = list(mapped(range(4), executor=ProcessExecutor(2)))
    assert again[:2] == first
    assert [len(result) for result in again] == [0, 1, 2, 3]
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3"]
    next(state.iterdir()).write_bytes(b"\xff{")  # damaged: that one again
    assert list(mapped(range(4))) == again
    assert len(log.read_text().split()) == 5
    assert list(mapped(range(2), version="2")) == again[:2]  # another key: all again, and the old files go
    assert len(list(state.iterdir())) == 2


def test_tables_are_kept_as_parquet(tmp_path):
    for _ in range(2):
        tables = list(resumable_map(SerialExecutor(), table_of, [1, 5], tmp_path, str, ParquetResults()))
        assert [table.to_pydict() for table in tables] == [{"value": [1, 2]}, {"value": [5, 6]}]
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


@given(st.lists(st.integers(0, 9)), st.integers(1, 12))
def test_groups_keep_order_and_stay_within_the_limit(weights, limit):
    groups = list(groups_by_weight(weights, lambda weight: weight, limit))
    assert [weight for group in groups for weight in group] == weights
    assert all(group and (len(group) == 1 or sum(group) <= limit) for group in groups)


def test_ranges_of_a_file_hold_every_line_once(tmp_path):
    records = [Span(document_id="d" * (number % 7), start=number, end=number) for number in range(50)]
    path = tmp_path / "spans.jsonl"
    write_jsonl(path, records)
    for max_bytes in (1, 100, 10_000):
        ranges = list(line_ranges(path, max_bytes))
        assert [record for piece in ranges for record in iter_range(piece, Span)] == records
        assert all(piece.end - piece.start <= max(max_bytes, 60) for piece in ranges)
    path.write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="the line at byte 0 is no Span"):
        list(iter_range(next(line_ranges(path, 10)), Span))
    with pytest.raises(InputError, match="does not exist"):
        next(line_ranges(tmp_path / "none", 10))


def test_usable_cores_are_at_least_one():
    assert 1 <= usable_cores() <= multiprocessing.cpu_count()
