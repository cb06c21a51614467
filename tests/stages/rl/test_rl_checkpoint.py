import json
import logging

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


def test_a_newer_checkpoint_replaces_the_older_and_its_rollouts(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(1, TENSORS, STATE)
    for step in (1, 2, 3):
        checkpoints.save_groups(step, random_groups(1, 2, 3, (1, 2)), {})
    checkpoints.save(2, TENSORS, STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-000002",
        "rollouts-000002.jsonl",
        "rollouts-000003.jsonl",
    ]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
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
    checkpoints.save_groups(4, groups, {"batches": 5})
    assert checkpoints.load_groups(4) == (groups, {"batches": 5})
    assert checkpoints.load_groups(5) is None


def test_torn_groups_and_groups_of_other_data_are_not_used(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save_groups(4, random_groups(2, 2, 4, (1, 5)), {})
    path = tmp_path / "rollouts-000004.jsonl"
    assert Checkpoints(tmp_path, "other").load_groups(4) is None
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert checkpoints.load_groups(4) is None
    path.write_text("\n".join([*lines[:-1], lines[-1][:20]]))
    assert checkpoints.load_groups(4) is None
    assert "2 groups were written, 1 are left" in caplog.text
    assert json.loads(lines[0])["step"] == 4


def test_clear_removes_everything(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save_groups(1, random_groups(1, 2, 3, (1, 2)), {})
    checkpoints.save(1, TENSORS, STATE)
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []
