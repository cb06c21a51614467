"""`longfuse lineage` and the run's own report, from a dvc.lock and records as DVC and the stages write them."""

import json

import pytest
import yaml

from flows.final_model import FINAL_DATA, final_model
from flows.fingerprint import fingerprint
from flows.journal import RunRecord, StageEntry
from flows.lineage import as_json, lineage, lineage_lines, whole_lineage
from flows.run_report import write_run_report
from stages.common.errors import InputError

PARAMS = {"sft": {"steps": 3, "optimiser": {"rate": 0.1}}, "seed": 17}
LOCK = {
    "rl@stage4": {
        "cmd": "python -m flows.stage rl@stage4",
        "deps": [{"path": "outputs/sft/data/model", "md5": "m2"}, {"path": "stages/rl/loss.py", "md5": "c2"}],
        "params": {"params.yaml": {"rl.stage4": {"steps": 1}}},
        "outs": [
            {"path": "outputs/rl/stage4/data", "md5": "o3.dir"},
            {"path": "outputs/rl/stage4/record.json", "md5": "r3"},
        ],
    },
    "sft": {
        "cmd": "python -m flows.stage sft",
        "deps": [
            {"path": "outputs/ingest/data/documents.jsonl", "md5": "d1"},
            {"path": "stages/sft/train.py", "md5": "c1"},
            {"path": "stages/sft/stage.py", "md5": "c3"},
        ],
        "params": {"params.yaml": PARAMS},
        "outs": [{"path": "outputs/sft/data", "md5": "o2.dir"}],
    },
    "ingest": {
        "cmd": "python -m flows.stage ingest",
        "deps": [{"path": "data/starter_corpus", "md5": "s1.dir"}],
        "outs": [{"path": "outputs/ingest/data", "md5": "o1.dir"}],
    },
    "other": {"cmd": "x", "deps": [], "outs": [{"path": "outputs/other/data", "md5": "o9"}]},
}


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": LOCK}))
    known_as = fingerprint(
        "python -m flows.stage sft",
        {"outputs/ingest/data/documents.jsonl": "d1", "stages/sft/train.py": "c1", "stages/sft/stage.py": "c3"},
        PARAMS,
    )
    folder = tmp_path / ".state" / "sft" / known_as
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps(
            {
                "commit": "abc", "dirty": True, "seconds": 12.5, "started": "2026-01-02T03:04:05+00:00", "mlflow_run": "r7",
                "peak_memory_mb": 700.0, "machine": {"cpu": "Xeon", "cpus": 8, "gpus": ["H100", "H100"]}, "cost_usd": 1.5,
            }
        )
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    "target", ["rl@stage4", "outputs/rl/stage4/data", "outputs/rl/stage4/data/model/x.safetensors"]
)
def test_an_output_is_traced_to_the_documents_and_to_nothing_else(tree, target):
    found = lineage(tree, target)
    assert [entry.stage for entry in found] == ["ingest", "sft", "rl@stage4"]
    sft = found[1]
    assert [(dep.path, dep.md5, dep.made_by) for dep in sft.dependencies] == [
        ("outputs/ingest/data/documents.jsonl", "d1", "ingest")  # inside an output of ingest
    ]
    assert sft.code_files == 2
    assert sft.run["mlflow_run"] == "r7"
    assert found[0].dependencies[0].made_by is None
    assert found[2].run is None


def test_lines_say_parameters_md5s_commit_and_run(tree):
    text = "\n".join(lineage_lines(lineage(tree, "sft")))
    assert text.startswith("sft  (python -m flows.stage sft)\n  made      outputs/sft/data  o2.dir")
    assert "12.5 s, commit abc with uncommitted changes" in text
    assert "  MLflow    r7" in text
    assert "  param     sft.optimiser.rate = 0.1" in text
    assert "  from      outputs/ingest/data/documents.jsonl  d1  (ingest)" in text
    assert "not in this tree" in text  # ingest left no record
    assert json.loads(as_json(lineage(tree, "sft")))[1]["outputs"] == {"outputs/sft/data": "o2.dir"}


def test_a_stage_without_its_instance_and_a_path_seen_from_here_are_found(tree, monkeypatch):
    assert lineage(tree, "rl")[-1].stage == "rl@stage4"
    (tree / "outputs" / "sft" / "data").mkdir(parents=True)
    monkeypatch.chdir(tree / "outputs")
    assert lineage(tree, "sft/data")[-1].stage == "sft"
    assert len(whole_lineage(tree)) == 4


def test_what_nobody_made_is_an_error_with_the_stages(tree, tmp_path):
    with pytest.raises(InputError, match=r"no stage made 'outputs/none'.*ingest, other, rl@stage4, sft"):
        lineage(tree, "outputs/none")
    (tmp_path / "dvc.lock").unlink()
    with pytest.raises(InputError, match="nothing was made in this tree yet"):
        lineage(tmp_path, "sft")


def record(tree):
    sft = lineage(tree, "sft")[-1]
    stages = (
        StageEntry(stage="ingest", planned="skip", state="skipped"),
        StageEntry(stage="sft", planned="run", state="ran", seconds=13.0, fingerprint=sft.fingerprint, mlflow_run="r7"),
        StageEntry(stage="rl@stage4", planned="run", state="ran", seconds=3600.0, fingerprint="0" * 64),
    )
    return RunRecord(
        command="longfuse run <b>", pid=1, profile="tiny", started=0.0, ended=60.0, state="finished", mlflow_run="p1",
        commit="abc", stages=stages,
    )  # fmt: skip


def test_the_run_report_has_time_cost_and_lineage_as_markdown_and_html(tree):
    markdown_path, html_path = write_run_report(tree, tree / ".state", record(tree))
    markdown, html = markdown_path.read_text(), html_path.read_text()
    assert markdown_path == tree / ".state" / "report" / "run.md"
    assert "| sft | ran | 13.0 | 12.5 | 700 |" in markdown
    assert "| Xeon, 8 CPUs, 2 x H100 | 0.003 | 1.50 |" in markdown
    assert "| this machine, ? CPUs | 1.000 | not charged |" in markdown
    assert "Total: 1.003 stage hours, 1.50 USD charged." in markdown
    assert "| sft | ingest | outputs/sft/data o2.dir | abc | r7 |" in markdown
    assert "other" not in markdown  # not of this run
    assert "longfuse run &lt;b&gt;" in html
    assert "<script" not in html
    assert "default-src 'none'" in html


def test_a_run_that_died_before_its_first_stage_has_a_report_too(tmp_path):
    empty = RunRecord(command="longfuse run", pid=1, profile="", started=0.0, ended=1.0, state="failed")
    text = write_run_report(tmp_path, tmp_path / ".state", empty)[0].read_text()
    assert "No stage ran: nothing was spent." in text
    assert "Lineage" not in text


def test_the_final_model_is_pointed_at_with_scores_and_lineage(tree):
    data = tree / FINAL_DATA
    data.mkdir(parents=True)
    (tree / "outputs" / "sft" / "data" / "model").mkdir(parents=True)
    (data / "model.json").write_text(
        json.dumps({"path": "../../../sft/data/model", "md5": "w1"})
    )  # stage 4 changed nothing
    scores = tree / "outputs" / "evaluate" / "stage4" / "data"
    scores.mkdir(parents=True)
    rows = [
        {"benchmark": "heldout/numerical", "mode": "full_context", "mean": 0.5, "n": 8},
        {"benchmark": "frames", "mode": "closed_book", "mean": None, "n": 0},
    ]
    (scores / "scores.json").write_text(json.dumps({"scores": rows}))
    model = final_model(tree, record(tree))
    assert model.pointer["path"] == "outputs/sft/data/model"
    assert model.pointer["md5"] == "w1"
    assert (model.pointer["dvc_output"], model.pointer["dvc_md5"]) == ("outputs/sft/data", "o2.dir")
    assert model.pointer["fetch"] == "git checkout abc && dvc pull outputs/sft/data"
    assert model.tags["score.heldout.numerical.full_context"] == "0.5000 (n 8)"
    assert model.tags["lineage.sft"].endswith(" r7")
    assert set(model.tags) >= {"lineage.ingest", "lineage.rl.stage4", "git.commit", "profile"}


def test_no_model_is_registered_by_a_run_that_did_not_make_it(tree):
    assert final_model(tree, record(tree)) is None  # no pointer
    (tree / FINAL_DATA).mkdir(parents=True)
    (tree / FINAL_DATA / "model.json").write_text('{"path": "model", "md5": "w1"}')
    failed = record(tree).model_copy(update={"stages": record(tree).stages[:2]})
    assert final_model(tree, failed) is None
