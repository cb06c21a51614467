"""`kill -9` at any moment of a stage, then another start: the results are bit for bit those of an unbroken run.

The kills come after a random time or as soon as a certain file exists, wherever the process is then: while it loads, in
the difficulty filter, in a rollout, an update, half-way through a checkpoint. Every run is a process of its own, forked
from a server that has imported the packages and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from stages.common.records import AnswerKind
from stages.common.storage import write_jsonl
from tests.stages.rl.kill_world import main, main_memory
from tests.stages.rl.tiny_world import make_samples, write_model_folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, float]:
    """Inputs, the results of an unbroken run, and the seconds that it took."""
    root = tmp_path_factory.mktemp("kills")
    write_model_folder(root / "parent")
    documents, samples = make_samples(per_task=3)
    # An answer that a random byte model hits now and then: single letters
    asked = [s.model_copy(update={"answer": "abc", "answer_kind": AnswerKind.SEQUENCE}) for s in samples]
    write_jsonl(root / "documents.jsonl", documents)
    write_jsonl(root / "train.jsonl", asked)
    write_jsonl(root / "heldout.jsonl", asked[::3])
    process = start(root, "unbroken")
    started = time.perf_counter()
    process.join(120)
    assert process.exitcode == 0
    return root, time.perf_counter() - started


def start(root: Path, name: str, target=main) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.rl.kill_world", "transformers.models.llama.modeling_llama"])
    process = context.Process(target=target, args=(root, name))
    process.start()
    return process


def stop_when(process: ForkServerProcess, number: int, condition) -> bool:
    """Send the signal as soon as the condition holds; False if the process ended before that."""
    while process.is_alive():
        if condition():
            os.kill(process.pid, number)
            process.join(60)
            return True
        time.sleep(0.002)
    return False


def assert_equal_results(root: Path, name: str, unbroken_name: str = "unbroken") -> None:
    unbroken, other = root / unbroken_name / "data", root / name / "data"
    files = sorted(path.relative_to(unbroken) for path in unbroken.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert Path("model/model.safetensors") in files
    assert Path("metrics.jsonl") in files
    for path in files:
        assert (unbroken / path).read_bytes() == (other / path).read_bytes(), path


def finish(root: Path, name: str) -> None:
    process = start(root, name)
    process.join(120)
    assert process.exitcode == 0
    assert_equal_results(root, name)


def groups_on_disk(root: Path, name: str) -> int:
    """Lines of all files of finished groups."""
    paths = (root / name / "state").glob("rollouts-*.jsonl")
    return sum(path.read_bytes().count(b'{"attempt"') for path in paths if path.exists())


@pytest.mark.parametrize(
    ("place", "reached"),
    [
        ("in the filter", lambda state: any(state.glob("filter-*.jsonl"))),
        ("between two groups", lambda state: any(b'"attempt"' in p.read_bytes() for p in state.glob("rollouts-000001-*"))),
        ("in a checkpoint", lambda state: any(state.glob("checkpoint-*.partial"))),
    ],
)  # fmt: skip
def test_a_stage_killed_at_a_chosen_place_ends_with_the_same_bytes(world, place, reached):
    root, _ = world
    name = place.replace(" ", "-")
    assert stop_when(start(root, name), signal.SIGKILL, lambda: reached(root / name / "state"))
    assert not (root / name / "done").exists()
    finish(root, name)
    shutil.rmtree(root / name)


def test_sigterm_in_a_rollout_keeps_groups_and_weights_and_ends_with_the_same_bytes(world):
    root, _ = world
    state = root / "sigterm" / "state"
    process = start(root, "sigterm")
    # Three updates are done, no checkpoint was due (every 2), the fourth step's rollouts are under way
    assert stop_when(process, signal.SIGTERM, lambda: any(state.glob("rollouts-000003-*")))
    assert process.exitcode == 128 + signal.SIGTERM
    assert groups_on_disk(root, "sigterm") > 0
    assert sorted(path.name for path in state.glob("checkpoint-*[0-9]")) == ["checkpoint-000002", "checkpoint-000003"]
    finish(root, "sigterm")


def test_a_half_read_trajectory_goes_on_from_its_last_finished_turn(world):
    root, _ = world
    process = start(root, "memory-unbroken", main_memory)
    process.join(120)
    assert process.exitcode == 0
    state = root / "memory-killed" / "state"

    def reached() -> bool:
        """In the second step, a group has finished some turns and not all."""
        return any(path.read_bytes().count(b'{"turn"') >= 2 for path in state.glob("rollouts-000001-*"))

    assert stop_when(start(root, "memory-killed", main_memory), signal.SIGKILL, reached)
    (kept,) = state.glob("rollouts-000001-*")
    turns = [line for line in kept.read_bytes().splitlines() if b'{"turn"' in line]
    process = start(root, "memory-killed", main_memory)
    process.join(120)
    assert process.exitcode == 0
    assert_equal_results(root, "memory-killed", "memory-unbroken")
    assert turns


@pytest.mark.slow
def test_a_stage_killed_at_twenty_random_moments_ends_with_the_same_bytes(world):
    """Twenty kills, spread over several runs; each run is killed again and again until it comes through."""
    root, seconds = world
    stream = random.Random(20)
    kills, number = 0, 0
    while kills < 20:
        number += 1
        name = f"random-{number}"
        for _ in range(4):
            moment = time.perf_counter() + stream.uniform(0.1, 1.0) * seconds
            kills += stop_when(start(root, name), signal.SIGKILL, lambda until=moment: time.perf_counter() > until)
            if (root / name / "done").exists():
                break
        if not (root / name / "done").exists():
            finish(root, name)
        assert_equal_results(root, name)
        shutil.rmtree(root / name)
