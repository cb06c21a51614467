"""`longfuse merge`: what it says, writes and refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows import cli
from stages.common.storage import write_json, write_model_pointer


def write_model(folder, shift):
    folder.mkdir(parents=True)
    save_file({"model.norm.weight": torch.ones(8) + shift}, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {"model_type": "llama"})
    write_json(folder / "tokenizer.json", {"model": {}})
    return folder


@pytest.fixture
def longfuse(monkeypatch, capsys):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["longfuse", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code or 0, said.out, said.err

    return run


def test_experts_become_one_model_with_a_report(tmp_path, longfuse):
    data = tmp_path / "data"  # a stage's data folder stands for its model
    write_model(data / "model", 0.0)
    write_model_pointer(data, data / "model")
    a, b = write_model(tmp_path / "x" / "model", 0.5), write_model(tmp_path / "y" / "model", 1.0)
    words = ["merge", "--base", data, "--expert", a, "--expert", b, "--out", tmp_path / "out"]
    code, out, _ = longfuse(*words)
    assert code == 0
    assert "1 tensors, 8 parameters" in out
    assert "weight model 2" in out  # two folders of one name
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"], torch.ones(8) + 0.9)
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["experts"] == ["model_1", "model_2"]
    assert report["summary"]["weight_model_2"] == pytest.approx(0.8)

    code, _, err = longfuse(*words)
    assert code == 2
    assert "is not empty" in err
    code, out, _ = longfuse(
        "merge", "--base", data, "--expert", a, "--expert", b, "--out", tmp_path / "mean", "--method", "linear",
        "--weight", "1", "--weight", "3", "--dtype", "bfloat16", "--report", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0
    value = load_file(tmp_path / "mean" / "model.safetensors")["model.norm.weight"]
    assert torch.equal(value, (torch.ones(8) + 0.875).bfloat16())
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["weights"], report["dtype"]) == ([1.0, 3.0], "bfloat16")
    assert not (tmp_path / "mean" / "merge.json").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--weighting", "mean"], "--weighting must be one of scale_free, reference"),
        (["--shard-gb", "0"], "a shard needs a size above 0"),
        (["--dtype", "int4"], "dtype must be one of auto, base, float32, bfloat16, float16, not 'int4'"),
        (["--method", "ties"], "method must be one of sce, linear, task_arithmetic"),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path, longfuse, extra, message):
    base, expert = write_model(tmp_path / "base", 0.0), write_model(tmp_path / "a", 0.5)
    code, _, err = longfuse("merge", "--base", base, "--expert", expert, "--out", tmp_path / "out", *extra)
    assert code == 2
    assert err.startswith("Error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_missing_folder_is_one_line(tmp_path, longfuse):
    code, _, err = longfuse("merge", "--base", tmp_path / "no", "--expert", tmp_path / "a", "--out", tmp_path / "out")
    assert code == 2
    assert "no is no folder" in err
