"""A short slice of the plumbing pipeline through Prefect, DVC and MLflow, and what a user sees of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.tree import copy_project, longfuse

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project") / "longfuse")


def test_stages_run_once_are_tracked_and_then_skipped(tree):
    first = longfuse(tree, "run", "--profile", "plumbing", "--only", "base_model")
    assert first.returncode == 0, first.stdout + first.stderr
    assert (tree / "outputs/base_model/record.json").is_file()

    second = longfuse(tree, "run", "--only", "ingest")
    assert second.returncode == 0, second.stdout + second.stderr
    assert (tree / "outputs/ingest/data/documents/general.jsonl").stat().st_size > 100_000

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tree}/.state/mlflow/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert sorted(run.data.tags["stage.name"] for run in runs if "mlflow.parentRunId" in run.data.tags) == [
        "base_model",
        "ingest",
    ]

    again = longfuse(tree, "run", "--only", "ingest")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout.lower()

    status = longfuse(tree, "status")
    assert status.returncode == 0
    assert "ingest" in status.stdout


def test_a_stage_without_its_inputs_says_which_stage_makes_them(tree):
    result = longfuse(tree, "run", "--only", "stratify")
    assert result.returncode == 2
    assert "verify" in result.stderr


def test_an_output_edited_by_hand_is_not_overwritten_silently(tree):
    path = tree / "outputs/ingest/data/summary.json"
    path.chmod(0o644)
    text = path.read_text()
    path.unlink()  # never write through DVC's hard link
    path.write_text(text + "\n")
    result = longfuse(tree, "run", "--only", "ingest")
    assert result.returncode == 2
    assert "summary.json" in result.stderr
    assert path.read_text() == text + "\n"
    assert longfuse(tree, "run", "--only", "ingest", "--discard-edits").returncode == 0
    assert path.read_text() == text


def test_files_that_cannot_be_read_are_skipped_counted_and_listed(tree, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shutil.copy(min((tree / "data/starter_corpus/general/state_of_the_union").iterdir()), corpus)
    (corpus / "binary.txt").write_bytes(b"\x00\x01\x02" * 1000)
    (corpus / "latin1.txt").write_bytes("caf\xe9 au lait ".encode("latin-1") * 100)
    result = longfuse(tree, "run", "--only", "ingest", "--corpus", str(corpus))
    assert result.returncode == 0, result.stderr
    dropped = (tree / "outputs/ingest/data/dropped.jsonl").read_text()
    assert "binary.txt" in dropped
    assert "latin1.txt" in dropped  # readable, and one phrase a hundred times


def test_a_corpus_too_small_for_a_task_names_the_task_and_the_number_found(tree):
    result = longfuse(tree, "run", "--only", "synthesize@numerical")
    assert result.returncode != 0
    text = result.stdout + result.stderr
    assert "numerical" in text
    assert "Traceback" not in text
