"""A user's mistakes against the real command: what, where and what to do; non-zero exit; nothing lost, nothing started."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from infra.lock import run_lock
from tests.integration.tree import copy_project, longfuse


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def restore_params(tree: Path):
    before = (tree / "params.yaml").read_bytes()
    yield
    (tree / "params.yaml").write_bytes(before)


def refused(tree: Path, *arguments: str, saying: list[str], code: int = 2) -> str:
    before = (tree / "params.yaml").read_bytes()
    result = longfuse(tree, *arguments, timeout_seconds=60)
    text = re.sub(r"\s+", " ", result.stderr)
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    for words in saying:
        assert words in text, (words, text)
    assert "Traceback" not in result.stderr
    assert (tree / "params.yaml").read_bytes() == before
    assert not (tree / "outputs").exists()
    return text


def edit(tree: Path, old: str, new: str) -> None:
    path = tree / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("command", [["run"], ["plan"]])
def test_a_misspelt_key_names_the_nearest_one(tree, command):
    edit(tree, "group_size:", "groupsize:")
    refused(tree, *command, saying=["rl.shared.groupsize", "group_size"])


def test_a_wrong_type_and_a_value_out_of_range_are_told_together(tree):
    edit(tree, "group_size: 4", "group_size: four")
    edit(tree, "top_p: 0.95", "top_p: 1.95")
    refused(tree, "run", saying=["rl.shared.group_size", "four", "top_p", "1.95"])


def test_broken_yaml_names_the_line(tree):
    edit(tree, "seed: 17", "seed: [17")
    refused(tree, "run", saying=["params.yaml"])


def test_an_unknown_profile_names_the_nearest_one(tree):
    refused(tree, "run", "--profile", "tinny", saying=["tinny", "tiny"])


def test_an_unknown_stage_names_the_nearest_one(tree):
    refused(tree, "run", "--only", "rl@stge1", saying=["rl@stge1", "rl@stage1"])


def test_an_unknown_key_in_set_names_the_nearest_one(tree):
    refused(tree, "run", "--set", "rl.stage2.learning_rat=1e-5", saying=["rl.stage2.learning_rat", "learning_rate"])


def test_a_missing_corpus_is_named(tree, tmp_path):
    refused(tree, "run", "--corpus", str(tmp_path / "nowhere"), saying=["nowhere"])


def test_an_empty_corpus_is_named(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tree, "run", "--corpus", str(tmp_path / "empty"), saying=["empty"])


def test_a_second_run_in_the_tree_says_who_holds_it(tree):
    with run_lock(tree / ".state", "longfuse run in another terminal"):
        text = refused(tree, "run", saying=["longfuse run in another terminal"], code=3)
    assert str(os.getpid()) in text


def test_hand_edits_that_a_profile_would_lose_are_listed(tree):
    edit(tree, "seed: 17", "seed: 18")
    refused(tree, "run", "--profile", "plumbing", saying=["seed", "18", "--discard-edits"])


def test_an_unreachable_mlflow_is_told_before_any_work(tree, monkeypatch):
    from tests.integration import tree as module

    settings = {**module.environment(), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    monkeypatch.setattr(module, "environment", lambda: settings)
    refused(tree, "run", saying=["MLflow", "127.0.0.1:9"], code=3)


def test_an_unreachable_prefect_is_told_before_any_work(tree, monkeypatch):
    from tests.integration import tree as module

    settings = {**module.environment(), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    monkeypatch.setattr(module, "environment", lambda: settings)
    refused(tree, "run", saying=["Prefect", "127.0.0.1:9"], code=3)


def test_a_seed_that_no_generator_takes_is_refused(tree):
    refused(tree, "plan", "--set", "seed=99999999999999999999999999", saying=["seed"])


def test_a_torn_dvc_lock_says_how_to_go_on(tree):
    (tree / "dvc.lock").write_text("schema: [[[")
    try:
        refused(tree, "run", saying=["dvc.lock", "deleted"])
    finally:
        (tree / "dvc.lock").unlink()
