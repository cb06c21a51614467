"""`python -m flows.stage` on several processes: same results, exit codes and messages as one, and nothing left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from flows.params import apply_sets, profile_params, write_params
from stages.common.records import AnswerKind
from stages.common.storage import write_jsonl, write_model_pointer
from stages.common.tokens import ChatTokenizer
from tests.stages.rl.tiny_world import make_samples, write_model_folder

pytest.importorskip("deepspeed", reason="the extra `train` is not installed")

PROJECT = Path(__file__).parents[2]
DVC_YAML = """\
stages:
  rl:
    foreach: {stage1: outputs/sft/data}
    do:
      cmd: python -m flows.stage rl@${key}
      params: [rl.shared, 'rl.${key}', endpoints.judge, train, seed]
      deps:
      - ${item}
      - outputs/stratify/data/train.jsonl
      - outputs/stratify/data/heldout.jsonl
      - outputs/assemble/data/documents.jsonl
      - outputs/base_model/data/model
      outs: ['outputs/rl/${key}/data', 'outputs/rl/${key}/record.json']
"""
SETTINGS = [
    "train.cpu_threads=1", "rl.shared.group_size=4", "rl.shared.aepo.entropy_low=0.01", "rl.shared.aepo.entropy_high=9.0",
    "rl.stage1.max_input_tokens=400", "rl.stage1.max_output_tokens=8", "rl.stage1.steps=3",
]  # fmt: skip
TWO = ["train.distributed.backend=deepspeed", "train.distributed.processes=2", "train.distributed.zero_stage=2"]
SECONDS = 120


def make_project(root: Path, *settings: str) -> Path:
    """A project whose only stage is rl@stage1, with everything that it reads."""
    from dvc.repo import Repo

    root.mkdir()
    (root / "dvc.yaml").write_text(DVC_YAML)
    write_params(root / "params.yaml", apply_sets(profile_params("plumbing"), [*SETTINGS, *settings]))
    model = write_model_folder(root / "outputs" / "base_model" / "data", "qwen3_moe")
    _prefer(model, "q x")
    write_model_pointer(root / "outputs" / "sft" / "data", model)
    documents, samples = make_samples(per_task=2)
    samples = [s.model_copy(update={"answer": "q", "answer_kind": AnswerKind.TEXT}) for s in samples]
    write_jsonl(root / "outputs" / "assemble" / "data" / "documents.jsonl", documents)
    for name in ("train", "heldout"):
        write_jsonl(root / "outputs" / "stratify" / "data" / f"{name}.jsonl", samples)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    Repo.init(str(root)).close()
    return root


def _prefer(model: Path, letters: str) -> None:
    """Make a byte model write some letters and its end token more often than others, so that rewards differ."""
    weights = load_file(model / "model.safetensors")
    tokenizer = ChatTokenizer(model)
    favoured = [tokenizer.encode_text(letter)[0] for letter in letters] + [tokenizer.eos_id]
    others = [token for token in range(len(weights["lm_head.weight"])) if token not in favoured]
    weights["lm_head.weight"][others] *= 0.02
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def start(root: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LONGFUSE_", "DVC_STAGE"))}
    environment |= {"PYTHONPATH": str(PROJECT), "DVC_SITE_CACHE_DIR": str(root.parent / "site")} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "flows.stage", "rl@stage1"],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(root: Path, **variables: str) -> tuple[int, str]:
    process = start(root, **variables)
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, output


def workers(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The training processes by rank."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found[int(child.environ()["RANK"])] = child
        except (psutil.Error, KeyError):
            continue
    return found


def wait_for_first_update(root: Path, process: subprocess.Popen[str]) -> None:
    """Return when two updates are done, so that a checkpoint exists."""
    deadline = time.monotonic() + SECONDS
    while not list(root.glob(".state/rl/stage1/*/checkpoint-*/COMMIT")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)


def metrics(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "outputs/rl/stage1/data/metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_what_one_process_trains(tmp_path: Path):
    one, two = make_project(tmp_path / "one"), make_project(tmp_path / "two", *TWO)
    for root in (one, two):
        code, output = run(root)
        assert code == 0, output
    assert sorted(p.name for p in (two / "outputs/rl/stage1/data").iterdir()) == sorted(
        p.name for p in (one / "outputs/rl/stage1/data").iterdir()
    )
    record = json.loads((two / "outputs/rl/stage1/record.json").read_text())
    assert record["counts"]["updates"] == 3
    # the same prompts, seeds and weights, so the first step's answers are the same
    first = [(root / "outputs/rl/stage1/data/rollouts.jsonl").read_text().splitlines()[:10] for root in (one, two)]
    assert first[0] == first[1]
    for ours, theirs in zip(metrics(two)[:1], metrics(one)[:1], strict=True):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert math.isclose(ours[key], value, rel_tol=1e-4, abs_tol=1e-6), key
    ours, theirs = (load_file(root / "outputs/rl/stage1/data/model/model.safetensors") for root in (two, one))
    assert set(ours) == set(theirs)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_message_and_the_stage_resumes_to_the_same_bytes(tmp_path: Path):
    unbroken, root = make_project(tmp_path / "unbroken", *TWO), make_project(tmp_path / "killed", *TWO)
    code, output = run(unbroken)
    assert code == 0, output
    process = start(root)
    try:
        wait_for_first_update(root, process)
        group = workers(process)
        assert sorted(group) == [0, 1]
        group[1].send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=45)
    finally:
        process.kill()
    assert process.returncode == 3, output
    assert "process 1 of 2 was ended by SIGKILL" in output
    assert "Traceback" not in output
    assert not any(worker.is_running() for worker in group.values())
    code, output = run(root)
    assert code == 0, output
    assert "continuing after" in output
    for path in (unbroken / "outputs/rl/stage1/data").rglob("*"):
        if path.is_file():
            twin = root / path.relative_to(unbroken)
            assert path.read_bytes() == twin.read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_processes_end_with_their_launcher(tmp_path: Path, number, code):
    root = make_project(tmp_path / "project", *TWO, "rl.stage1.steps=200")
    process = start(root)
    try:
        wait_for_first_update(root, process)
        group = workers(process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=45)
        assert process.returncode == code, output
        _, alive = psutil.wait_procs(list(group.values()), timeout=20)
        assert not alive
    finally:
        process.kill()
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_users_mistake_is_told_once_with_its_exit_code(tmp_path: Path):
    root = make_project(tmp_path / "project", *TWO, "rl.stage1.max_input_tokens=40")
    code, output = run(root)
    assert code == 2, output
    assert output.count("none of the 10 training prompts") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_torchrun_of_a_cluster_starts_the_same_stage(tmp_path: Path):
    root = make_project(tmp_path / "project", *TWO, "rl.stage1.steps=1")
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "flows.stage", "rl@stage1"],
        cwd=root,
        env=environment | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((root / "outputs/rl/stage1/record.json").read_text())["counts"]["updates"] == 1
