import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from stages.rl.checkpoint import Checkpoints
from tests.stages.rl.tiny_world import random_groups

TENSORS = {"weight/a": torch.arange(6.0).reshape(2, 3), "step/a": torch.tensor(3.0)}
STATE = {"progress": {"step": 3}, "sampler": {"queue": {"a": [2, 1]}}}


def test_what_was_saved_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(3, TENSORS, STATE)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 3
    assert found.state == STATE
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "new", "run").latest() is None


def keep_groups(checkpoints: Checkpoints, step: int, groups, attempt: int = 0) -> None:
    finished = checkpoints.finished(step)
    for group in groups:
        finished.add(attempt, group)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_newer_checkpoint_replaces_the_older_and_its_rollouts(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(1, TENSORS, STATE)
    for step in (1, 2, 3):
        keep_groups(checkpoints, step, random_groups(1, 2, 3, (1, 2)))
    checkpoints.save(2, TENSORS, STATE)
    assert names(tmp_path) == [
        "checkpoint-000002",
        "rollouts-000002-rank-0000.jsonl",
        "rollouts-000003-rank-0000.jsonl",
    ]


def test_as_many_checkpoints_stay_as_were_asked_for(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run", keep=2)
    for step in (2, 4, 6):
        keep_groups(checkpoints, step, random_groups(1, 2, 3, (1, 2)))
        checkpoints.save(step, TENSORS, STATE)
    assert names(tmp_path) == [
        "checkpoint-000004",
        "checkpoint-000006",
        "rollouts-000004-rank-0000.jsonl",
        "rollouts-000006-rank-0000.jsonl",
    ]


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, "run", keep=2)
    checkpoints.save(2, TENSORS, {"progress": 2})
    checkpoints.save(4, TENSORS, {"progress": 4})
    path = tmp_path / "checkpoint-000004" / "rank-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, found.state) == (2, {"progress": 2})
    assert "checkpoint-000004 is not used: rank-0000.safetensors is damaged" in caplog.text
    checkpoints.save(3, TENSORS, STATE)  # goes on from there: what is newer but broken leaves
    assert names(tmp_path) == ["checkpoint-000002", "checkpoint-000003"]


def in_two_processes(work: Callable[[int, Callable[[], None]], object]) -> list:
    """What two threads return that meet at one barrier."""
    barrier = threading.Barrier(2, timeout=20)
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(work, rank, barrier.wait) for rank in range(2)]]


def test_each_process_has_its_own_tensors_and_the_first_commits(tmp_path):
    def work(rank, barrier):
        checkpoints = Checkpoints(tmp_path, "run", rank=rank, world_size=2, barrier=barrier)
        checkpoints.save(4, {"part": torch.full((3,), float(rank))}, STATE)
        found = checkpoints.latest()
        return found.step, found.state, found.tensors["part"].tolist()

    assert in_two_processes(work) == [(4, STATE, [0.0] * 3), (4, STATE, [1.0] * 3)]
    assert names(tmp_path) == ["checkpoint-000004"]
    assert Checkpoints(tmp_path, "run").latest() is None  # one process cannot use two halves


def test_processes_agree_on_a_checkpoint_that_all_can_use(tmp_path):
    def write(rank, barrier):
        checkpoints = Checkpoints(tmp_path, "run", keep=2, rank=rank, world_size=2, barrier=barrier)
        for step in (2, 4):
            checkpoints.save(step, TENSORS, STATE)

    in_two_processes(write)
    (tmp_path / "checkpoint-000004" / "rank-0001.safetensors").write_bytes(b"torn")

    def read(rank, barrier):
        return Checkpoints(tmp_path, "run", rank=rank, world_size=2, barrier=barrier).latest().step

    assert in_two_processes(read) == [2, 2]


def test_processes_see_each_other_s_finished_groups(tmp_path):
    groups = random_groups(2, 2, 3, (1, 2))

    def work(rank, barrier):
        checkpoints = Checkpoints(tmp_path, "run", rank=rank, world_size=2, barrier=barrier)
        checkpoints.finished(1).add(0, groups[rank])
        barrier()
        finished = checkpoints.finished(1)
        return [finished.get(0, place, groups[place].sample_id) for place in range(2)]

    assert in_two_processes(work) == [groups, groups]


def test_another_number_of_processes_is_refused_with_the_reason(tmp_path, caplog):
    Checkpoints(tmp_path, "run").save(2, TENSORS, STATE)

    def read(rank, barrier):
        return Checkpoints(tmp_path, "run", rank=rank, world_size=2, barrier=barrier).latest()

    assert in_two_processes(read) == [None, None]
    assert "written by 1 processes, now there are 2" in caplog.text


@pytest.mark.parametrize("name", ["rank-0000.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(tmp_path, caplog, name):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(2, TENSORS, STATE)
    path = tmp_path / "checkpoint-000002" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest() is None
    assert f"{name} is damaged" in caplog.text


def test_a_checkpoint_without_commit_is_passed_over(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(2, TENSORS, STATE)
    (tmp_path / "checkpoint-000002" / "COMMIT").unlink()
    assert checkpoints.latest() is None
    assert "COMMIT" in caplog.text


def test_a_half_written_folder_is_not_a_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(2, TENSORS, STATE)
    (tmp_path / "checkpoint-000004.partial").mkdir()
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 2


def test_a_checkpoint_of_other_data_is_passed_over(tmp_path, caplog):
    Checkpoints(tmp_path, "other").save(2, TENSORS, STATE)
    assert Checkpoints(tmp_path, "run").latest() is None
    assert "other data" in caplog.text


def test_groups_come_back_equal(tmp_path):
    groups = random_groups(2, 3, 4, (1, 5), turns=2)
    checkpoints = Checkpoints(tmp_path, "run")
    keep_groups(checkpoints, 4, groups)
    finished = checkpoints.finished(4)
    assert [finished.get(0, group.group_id, group.sample_id) for group in groups] == groups
    assert finished.get(1, 0, groups[0].sample_id) is None  # another refill
    assert finished.get(0, 0, groups[1].sample_id) is None  # another sample at that place
    assert len(checkpoints.finished(5)) == 0


def test_a_prompt_is_written_once_per_group(tmp_path):
    (group,) = random_groups(1, 8, 1000, (2, 2))
    keep_groups(Checkpoints(tmp_path, "run"), 1, [group])
    assert (tmp_path / "rollouts-000001-rank-0000.jsonl").stat().st_size < 2 * 1000 * 5


def test_a_torn_last_line_is_cut_off_and_the_groups_before_it_are_used(tmp_path, caplog):
    groups = random_groups(3, 2, 4, (1, 5))
    checkpoints = Checkpoints(tmp_path, "run")
    keep_groups(checkpoints, 4, groups)
    path = tmp_path / "rollouts-000004-rank-0000.jsonl"
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[:-40], whole[: whole.rindex(b"\n", 0, -1) + 1] + b"\x00" * 30):
        path.write_bytes(torn)
        finished = checkpoints.finished(4)
        assert [finished.get(0, i, groups[i].sample_id) for i in range(3)] == [groups[0], groups[1], None]
        finished.add(0, groups[2])
        assert path.read_bytes() == whole
    assert "line 4 is torn or damaged; the 2 groups before it are used" in caplog.text


def test_groups_of_other_data_are_not_used(tmp_path, caplog):
    groups = random_groups(1, 2, 4, (1, 5))
    keep_groups(Checkpoints(tmp_path, "other"), 4, groups)
    finished = Checkpoints(tmp_path, "run").finished(4)
    assert len(finished) == 0
    assert "belongs to other data" in caplog.text
    finished.add(0, groups[0])
    assert len(Checkpoints(tmp_path, "run").finished(4)) == 1


def test_a_damaged_byte_is_noticed(tmp_path):
    groups = random_groups(3, 2, 4, (1, 5))
    checkpoints = Checkpoints(tmp_path, "run")
    keep_groups(checkpoints, 4, groups)
    path = tmp_path / "rollouts-000004-rank-0000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"reward": 0.', b'"reward": 1.', 1)
    path.write_bytes(b"".join(lines))
    assert len(checkpoints.finished(4)) == 1


def test_notes_of_a_step_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.finished(2).note("eval", {"eval/reward/mean": 0.1 + 0.2})
    assert checkpoints.finished(2).noted("eval") == {"eval/reward/mean": 0.1 + 0.2}
    assert checkpoints.finished(3).noted("eval") is None


class Signal(BaseException):
    """What flows/stage_guard.py raises is not an Exception either."""


@pytest.mark.parametrize(("error", "written"), [(Signal(), True), (ValueError("a bug"), False)])
def test_a_signal_writes_the_checkpoint_a_failure_does_not(tmp_path, error, written):
    checkpoints = Checkpoints(tmp_path, "run")
    with pytest.raises(type(error)), checkpoints.saved_if_stopped(7, lambda: TENSORS, STATE):
        raise error
    found = checkpoints.latest()
    assert (found is not None and found.step == 7) == written


def test_a_checkpoint_that_would_take_too_long_is_not_written_on_a_signal(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    huge = torch.empty(10**9, device="meta")
    with pytest.raises(Signal), checkpoints.saved_if_stopped(7, lambda: {"huge": huge}, STATE):
        raise Signal
    assert list(tmp_path.iterdir()) == []


def test_clear_removes_everything(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    keep_groups(checkpoints, 1, random_groups(1, 2, 3, (1, 2)))
    checkpoints.save(1, TENSORS, STATE)
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []
