"""The report of a real small run: scores.json and predictions.jsonl as the stage writes them, in the pipeline's folders."""

import json

import pytest
from evaluation_examples import SAMPLES, stage_config

from stages.common.storage import write_json, write_jsonl, write_model_pointer
from stages.evaluation.evaluate import run as evaluate
from stages.report.config import ReportConfig, ReportStage
from stages.report.report import run as report
from tests.report_page import ReportPage
from tests.tiny_chat_model import write_tiny_model

MODELS = ("base", "sft", "stage1", "stage2", "stage3", "memory", "merge", "stage4")
TRAINED = ("sft", "stage1", "stage2", "stage3", "memory", "stage4")


def nothing(step, values):
    """No metrics are kept."""


@pytest.fixture
def outputs(tmp_path, documents):
    """The folder `outputs` after eight real evaluations of a tiny random model; the other stages left next to nothing."""
    root = tmp_path / "outputs"
    write_tiny_model(root / "model" / "data" / "model")
    write_model_pointer(root / "model" / "data", root / "model" / "data" / "model")
    write_jsonl(tmp_path / "heldout.jsonl", SAMPLES)
    (tmp_path / "benchmarks").mkdir()
    inputs = {
        "model": root / "model" / "data",
        "heldout": tmp_path / "heldout.jsonl",
        "documents": tmp_path / "documents.jsonl",
        "benchmarks": tmp_path / "benchmarks",
    }
    for model in MODELS:
        out = root / "evaluate" / model / "data"
        out.mkdir(parents=True)
        evaluate(stage_config(max_output_tokens=4), inputs, out, tmp_path / f"state_{model}", nothing)
    return root


def test_every_link_of_its_report_exists_and_every_score_leads_to_its_model(outputs, tmp_path):
    inputs = {f"evaluate_{model}": outputs / "evaluate" / model / "data" for model in MODELS}
    for stage in TRAINED:
        inputs[f"metrics_{stage}"] = outputs / stage / "metrics.jsonl"
        write_jsonl(inputs[f"metrics_{stage}"], [{"step": 0, "reward/mean": 0.5, "loss/sft": 1.0}])
    for name in ("merge", "ingest", "assemble", "verify", "stratify", "bins"):
        inputs[name] = outputs / name / "data" / ("bins.json" if name == "bins" else "summary.json")
        write_json(inputs[name], {} if name == "bins" else {"counts": {"samples": 3}})
    out = outputs / "report" / "data"
    out.mkdir(parents=True)
    config = ReportStage(
        report=ReportConfig(title="t", examples_per_task=1), std_scope="task", aepo=True,
        clipping_level="none", clipping_side="high",
    )  # fmt: skip
    report(config, inputs, out, out, nothing)

    page = ReportPage(out / "report.html")
    assert page.broken_links() == []
    scores = page.scores_by_model(MODELS)
    assert {model for _, model, _ in scores} == set(MODELS)
    for title, model, cell in scores:
        assert page.target(cell.link) == outputs / "evaluate" / model / "data" / "scores.json", title
    # All that was scored is shown: a row for each benchmark and mode.
    for mode in ("full_context", "memory_agent"):
        rows = json.loads((outputs / "evaluate" / "base" / "data" / "scores.json").read_text())["scores"]
        asked = [row["benchmark"] for row in rows if row["mode"] == mode and row["n"]]
        table = page.tables[f"Scores, {mode.replace('_', ' ')}"]
        assert asked
        assert len(table) == 1 + len(asked)
