"""The whole plumbing pipeline through Prefect, DVC and MLflow: run, change, change back, kill, two clones.

Each test goes on from where the one before stopped, as a user's day would; the order is that of the file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from flows.catalog import CATALOG
from stages.report.load import MODELS
from tests.integration.tree import command, copy_project, environment, longfuse
from tests.report_page import ReportPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRAINED = {  # stage -> the model it starts from
    "sft": "base_model",
    "rl/stage1": "sft",
    "rl/stage2": "rl/stage1",
    "rl/stage3": "rl/stage2",
    "memory_rl": "rl/stage3",
    "rl/stage4": "merge",
}
AFTER_STAGE2 = {
    "rl@stage2",
    "rl@stage3",
    "memory_rl",
    "merge",
    "rl@stage4",
    "evaluate@stage2",
    "evaluate@stage3",
    "evaluate@memory",
    "evaluate@merge",
    "evaluate@stage4",
    "report",
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the pipeline ran once without interruption."""
    tree = copy_project(tmp_path_factory.mktemp("first") / "longfuse")
    result = longfuse(tree, "run", "--profile", "plumbing")
    assert result.returncode == 0, result.stdout + result.stderr
    return tree


def plan(tree: Path, *arguments: str) -> dict[str, dict]:
    result = longfuse(tree, "plan", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return {entry["stage"]: entry for entry in json.loads(result.stdout)}


def to_do(tree: Path, *arguments: str) -> dict[str, str]:
    return {stage: entry["action"] for stage, entry in plan(tree, *arguments).items() if entry["action"] != "skip"}


def outputs(tree: Path) -> dict[str, str]:
    """Output path -> md5, of everything that DVC recorded."""
    lock = yaml.safe_load((tree / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


def processes_of(tree: Path) -> list[psutil.Process]:
    """Every process that works in a tree."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(tree):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until_gone(tree: Path, seconds: float = 20) -> list[str]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(tree)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [" ".join(process.cmdline()) for process in left if process.is_running()]


def test_every_stage_ran_and_left_its_record(first):
    assert set(yaml.safe_load((first / "dvc.lock").read_text())["stages"]) == set(CATALOG)
    for spec in CATALOG.values():
        record = json.loads((first / spec.folder / "record.json").read_text())
        assert record["stage"] == spec.name
        assert all(md5 for md5 in record["inputs"].values())


def test_every_training_stage_moved_its_weights(first):
    for stage, parent in TRAINED.items():
        ours = load_file(first / "outputs" / stage / "data/model/model.safetensors")
        theirs = load_file(first / "outputs" / parent / "data/model/model.safetensors")
        assert any((ours[name] != theirs[name]).any() for name in ours), stage


def test_a_reward_was_earned_and_a_gradient_followed(first):
    rows = [
        json.loads(line)
        for stage in ("rl/stage1", "rl/stage2", "rl/stage3", "rl/stage4")
        for line in (first / "outputs" / stage / "data/metrics.jsonl").read_text().splitlines()
    ]
    assert any(row["reward/mean"] > 0 for row in rows)
    assert any(row["grad_norm"] > 0 for row in rows)


def test_what_the_memory_agent_read_is_a_trace_of_its_stages_run(first):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{first}/.state/mlflow/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'longfuse'")
    traces = client.search_traces([experiment.experiment_id], max_results=500)
    stage_of = {
        run.info.run_id: run.data.tags.get("stage.name") for run in client.search_runs([experiment.experiment_id])
    }
    recorded = {name for name in CATALOG if name == "memory_rl" or name.startswith("evaluate@")}
    assert {trace.info.tags["stage.name"] for trace in traces} == recorded
    for trace in traces:
        assert stage_of[trace.info.trace_metadata["mlflow.sourceRun"]] == trace.info.tags["stage.name"]
        (root,) = [span for span in trace.data.spans if span.parent_id is None]
        assert len(trace.data.spans) == root.attributes["turns"] + 2  # itself, the turns, the answer
        assert root.attributes["sample_id"]
        assert ("reward" in root.attributes) != ("rule_score" in root.attributes)


def test_the_report_links_every_score_to_its_model_and_nothing_to_nowhere(first):
    page = ReportPage(first / "outputs/report/data/report.html")
    assert page.broken_links() == []
    scores = page.scores_by_model(MODELS)
    assert {model for _, model, _ in scores} == set(MODELS)
    for title, model, cell in scores:
        expected = first / f"outputs/evaluate/{model}/data/scores.json"
        assert page.target(cell.link) == expected.resolve(), title


def test_nothing_cached_holds_a_path_of_this_machine(first):
    for path in (first / "outputs").rglob("*"):
        if path.is_file():
            assert str(first).encode() not in path.read_bytes(), path


def test_mlflow_has_a_parent_and_a_child_per_stage(first):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{first}/.state/mlflow/mlflow.db")
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiment_ids, max_results=200)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert {run.data.tags["stage.name"] for run in children} == set(CATALOG)
    rl = next(run for run in children if run.data.tags["stage.name"] == "rl@stage1")
    assert "reward/mean" in rl.data.metrics
    assert rl.data.params


def test_a_run_with_nothing_to_do_starts_nothing(first):
    result = longfuse(first, "run")
    assert result.returncode == 0
    assert "nothing to do" in result.stdout.lower()
    assert not processes_of(first)


def test_a_changed_parameter_reaches_its_stage_and_what_follows(first):
    before = outputs(first)
    changed = plan(first, "--set", "rl.stage2.learning_rate=0.002")
    assert {stage for stage, entry in changed.items() if entry["action"] != "skip"} == AFTER_STAGE2
    reason = changed["rl@stage2"]["reasons"][0]
    assert (reason["kind"], reason["name"], reason["old"], reason["new"]) == (
        "param",
        "rl.stage2.learning_rate",
        0.001,
        0.002,
    )

    result = longfuse(first, "run", "--set", "rl.stage2.learning_rate=0.002")
    assert result.returncode == 0, result.stdout + result.stderr
    after = outputs(first)
    assert after["outputs/rl/stage2/data"] != before["outputs/rl/stage2/data"]
    assert after["outputs/rl/stage1/data"] == before["outputs/rl/stage1/data"]

    back = plan(first, "--set", "rl.stage2.learning_rate=0.001")
    assert back["rl@stage2"]["action"] == "restore"
    result = longfuse(first, "run", "--set", "rl.stage2.learning_rate=0.001")
    assert result.returncode == 0, result.stdout + result.stderr
    assert outputs(first) == before
    assert "restored" in result.stdout
    assert "step 1 of" not in result.stdout  # nothing was trained


def test_one_more_dialogue_leaves_the_other_categories_untouched(first):
    extra = first / "data/starter_corpus/dialogues/extra.md"
    turns = [
        f"{'user' if i % 2 == 0 else 'assistant'}: this is remark number {i} about teapots and trains"
        for i in range(40)
    ]
    extra.write_text("# One more session\n\n" + "\n".join(turns) + "\n")
    try:
        before = outputs(first)
        result = longfuse(first, "run", "--only", "ingest")
        assert result.returncode == 0, result.stderr
        assert "parsed 1 files or repositories, reused 74" in result.stdout
        planned = plan(first)
        assert planned["base_model"]["action"] == "skip"
        assert planned["synthesize@numerical"]["action"] == "skip"
        assert planned["synthesize@dialogue_memory"]["action"] == "run"
        assert outputs(first)["outputs/ingest/data"] != before["outputs/ingest/data"]
    finally:
        extra.unlink()
    assert longfuse(first, "run", "--only", "ingest").returncode == 0
    assert outputs(first) == before


def test_a_comment_in_an_ingest_file_reruns_ingest_alone(first):
    source = first / "stages/ingest/clean.py"
    text = source.read_text()
    source.write_text(text + "# a remark\n")
    try:
        changed = plan(first)
        assert changed["ingest"]["action"] == "run"
        assert changed["ingest"]["reasons"][0]["kind"] == "code"
        before = outputs(first)
        assert longfuse(first, "run", "--only", "ingest").returncode == 0
        assert outputs(first) == before
        assert to_do(first) == {}
    finally:
        source.write_text(text)
    longfuse(first, "run", "--only", "ingest")
    assert to_do(first) == {}


def start(tree: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "--profile", "plumbing"),
        cwd=tree,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_stage(tree: Path, stage: str, process: subprocess.Popen[str], seconds: float = 400) -> None:
    """Until a stage's process is at work."""
    folder = tree / ".state" / Path(*stage.split("@"))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(folder.glob("*/metrics.spool.jsonl")):
            return
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.1)
    pytest.fail(f"{stage} did not start within {seconds} s")


def test_kills_lose_nothing_and_a_second_clone_makes_the_same_bytes(first, tmp_path):
    tree = copy_project(tmp_path / "longfuse")

    run = start(tree)
    wait_for_stage(tree, "sft", run)
    os.killpg(run.pid, signal.SIGINT)  # Ctrl-C
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert "stratify" in output
    assert wait_until_gone(tree) == []

    run = start(tree)
    wait_for_stage(tree, "rl@stage2", run)
    run.kill()  # SIGKILL of the flow
    run.communicate(timeout=60)
    assert wait_until_gone(tree) == []

    run = start(tree)
    wait_for_stage(tree, "rl@stage3", run)
    victims = [p for p in processes_of(tree) if p.cmdline()[-2:] == ["flows.stage", "rl@stage3"]]
    for victim in victims:
        victim.kill()  # SIGKILL of the stage
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "rl@stage3" in output
    assert wait_until_gone(tree) == []

    result = longfuse(tree, "run")
    assert result.returncode == 0, result.stdout + result.stderr
    assert outputs(tree) == outputs(first)
