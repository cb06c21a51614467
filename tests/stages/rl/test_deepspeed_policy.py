"""DeepSpeedPolicy against TorchPolicy, on one process and on several: the checks are in deepspeed_checks.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.rl.process_group import run_together
from tests.stages.rl.tiny_world import write_model_folder

pytest.importorskip("deepspeed", reason="the extra `train` is not installed")

CHECKS = "tests.stages.rl.deepspeed_checks"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    return {kind: str(write_model_folder(tmp_path_factory.mktemp(kind), kind)) for kind in ("llama", "qwen3_moe")}


def case(stage: int, parallel: int = 1, **batch: int) -> dict:
    return {"policy": {"zero_stage": stage, "sequence_parallel": parallel}, "batch": batch}


def test_two_processes_have_the_gradients_of_one(folders, tmp_path: Path):
    cases = [case(2), case(3)]
    results = run_together(2, f"{CHECKS}:equals_one_process", tmp_path, folder=folders["qwen3_moe"], cases=cases)
    assert results == [2, 2]


FRUGAL = {
    "zero_stage": 3,
    "sequence_parallel": 2,
    "offload_optimizer": True,
    "offload_parameters": True,
    "activation_checkpointing": True,
    "offload_activations": True,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "kind", "cases"),
    [
        (1, "qwen3_moe", [case(0), case(1), case(2), case(3)]),
        # rows that hold one answer, a whole group, all groups; memory trajectories
        (2, "qwen3_moe", [case(0), case(1), case(2, budget=36), case(3, budget=2000), case(3, turns=2)]),
        (2, "qwen3_moe", [case(2, 2), case(3, 2, budget=36), case(2, 2, turns=2, budget=2000)]),
        (2, "llama", [case(2, turns=2), case(3), case(2, 2), case(3, 2), {"policy": FRUGAL}]),
        # two workers of two processes; and four processes for a model with two key heads
        (4, "llama", [case(2, 2), case(3, 2, budget=36), case(3, 4)]),
        (3, "qwen3_moe", [case(2), case(3, budget=36)]),  # parameters that three do not divide
    ],
)
def test_any_layout_has_the_gradients_of_one_process(folders, tmp_path: Path, processes, kind, cases):
    run_together(processes, f"{CHECKS}:equals_one_process", tmp_path, folder=folders[kind], cases=cases)


@pytest.mark.slow
def test_few_rows_and_broken_numbers(folders, tmp_path: Path):
    run_together(2, f"{CHECKS}:survives", tmp_path, folder=folders["qwen3_moe"], stages=[0, 1, 2, 3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "cases"),
    [
        (2, [(0, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")]),
        (3, [(3, "float32")]),
        (1, [(2, "float32")]),
    ],
)
def test_a_model_is_saved_and_training_resumed_bit_for_bit(folders, tmp_path: Path, processes, cases):
    check = f"{CHECKS}:saves_and_resumes"
    run_together(processes, check, tmp_path, folder=folders["qwen3_moe"], out=str(tmp_path), cases=cases)


@pytest.mark.slow
def test_adapters_are_trained_and_merged(folders, tmp_path: Path):
    check = f"{CHECKS}:trains_adapters"
    run_together(2, check, tmp_path, folder=folders["llama"], out=str(tmp_path), stages=[2, 3])
