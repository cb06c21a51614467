"""The command line as its user meets it: a process, its exit code, what it prints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.catalog import CATALOG
from infra.lock import run_lock
from infra.settings import load_settings

REPO = Path(__file__).parents[2]


def longfuse(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW", "LONGFUSE"))}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=cwd,
        env={**kept, "PYTHONPATH": os.pathsep.join([str(REPO), kept.get("PYTHONPATH", "")]), **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The project's files with a small corpus, as a git repository."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(REPO / name, root / name)
    shutil.copytree(REPO / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".dvc").mkdir()
    shutil.copy(REPO / ".dvc" / "config", root / ".dvc" / "config")
    (root / "data" / "starter_corpus").mkdir(parents=True)
    (root / "data" / "starter_corpus" / "a.txt").write_text("A document.")
    (root / "data" / "benchmarks").mkdir()
    (root / "data" / "evaluation").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture
def params(clone):
    """params.yaml, put back after the test."""
    path = clone / "params.yaml"
    before = path.read_text()
    yield path
    path.write_text(before)


def failed(done: subprocess.CompletedProcess, exit_code: int) -> str:
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("words", [["--help"], ["plan", "--json"], ["status"], ["profile", "list"]])
def test_quick_commands_import_nothing_heavy(clone, words):
    code = (
        "import sys\nfrom flows import cli\nsys.argv = ['longfuse', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'prefect', 'mlflow', 'torch', 'transformers'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=clone, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_plan_is_a_topological_list_and_writes_nothing(clone, params):
    before = params.read_text()
    done = longfuse("plan", "--json", "--set", "rl.stage2.learning_rate=1e-5", cwd=clone)
    stages = json.loads(done.stdout)
    assert stages[0] == {
        "stage": "base_model",
        "action": "run",
        "reasons": [{"kind": "output", "name": "base_model", "old": None, "new": None}],
    }
    names = [stage["stage"] for stage in stages]
    assert names.index("rl@stage1") < names.index("rl@stage2") < names.index("report")
    assert params.read_text() == before
    assert not (clone / ".state" / "prefect").exists()


def test_plan_survives_a_reader_that_goes_away(clone):
    code = f"{sys.executable} -m flows.cli plan | head -1"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(["sh", "-c", code], cwd=clone, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("run")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--profile", "tinny"], "Did you mean 'tiny'?"),
        (["run", "--set", "rl.stage2.learning_rat=1"], "Did you mean 'rl.stage2.learning_rate'?"),
        (["run", "--set", "rl.stage2.steps=many"], "rl.stage2.steps"),
        (["run", "--corpus", "nowhere"], "--corpus nowhere: does not exist"),
        (["run", "--only", "stf"], "Did you mean 'sft'?"),
        (["run", "--only", "sft"], "Run `longfuse run --from"),
        (["run", "--only", "sft", "--from", "sft"], "exclude each other"),
        (["run", "--jobs", "0"], "at least 1"),
        (["profile", "show", "tinny"], "Did you mean 'tiny'?"),
        (["deploy"], "give --serve"),
    ],
)
def test_mistake_of_the_user_is_a_message_with_a_remedy_and_exit_code_2(clone, params, words, message):
    before = params.read_text()
    assert message in failed(longfuse(*words, cwd=clone), 2)
    assert params.read_text() == before


def test_misspelt_key_in_params_names_the_nearest(clone, params):
    params.write_text(params.read_text().replace("batch_size: 4", "batch_sise: 4", 1))
    assert "batch_size" in failed(longfuse("run", cwd=clone), 2)


def test_empty_corpus_is_said_before_any_work(clone):
    (clone / "empty").mkdir(exist_ok=True)
    assert "is empty" in failed(longfuse("plan", "--corpus", "empty", cwd=clone), 2)


def test_services_that_do_not_answer_are_said_before_any_work(clone):
    down = failed(longfuse("run", cwd=clone, MLFLOW_TRACKING_URI="http://127.0.0.1:9"), 3)
    assert "MLflow server at http://127.0.0.1:9" in down
    assert "unset" in down
    down = failed(longfuse("run", cwd=clone, PREFECT_API_URL="http://127.0.0.1:9/api"), 3)
    assert "Prefect server at http://127.0.0.1:9/api" in down
    assert not (clone / "outputs").exists()


def test_second_run_in_the_tree_is_told_who_holds_it(clone):
    with run_lock(load_settings(clone).state_dir, "longfuse run --jobs 1"):
        message = failed(longfuse("run", cwd=clone), 3)
        assert f"`longfuse run --jobs 1`, process {os.getpid()}" in message
        assert "A run is starting" in longfuse("status", cwd=clone).stdout


def test_outside_a_project_there_is_a_hint(tmp_path):
    assert "no dvc.yaml" in failed(longfuse("plan", cwd=tmp_path), 3)


def test_status_before_the_first_run(clone):
    out = longfuse("status", cwd=clone).stdout
    assert "No run yet in this tree" in out
    assert f"{len(CATALOG)} to run" in out


def test_profile_show_prints_complete_params(clone):
    out = longfuse("profile", "show", "plumbing", cwd=clone).stdout
    assert "profile: plumbing\n" in out
    assert "random:qwen3_moe" in out
    listed = longfuse("profile", "list", cwd=clone).stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["paper_30b", "paper_4b", "plumbing", "smol", "tiny"]


def test_doctor_tells_what_to_do(clone):
    done = longfuse("doctor", cwd=clone, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 3
    assert "fail MLflow" in done.stdout
    assert "unset" in done.stdout
    assert "ok   Python" in done.stdout
