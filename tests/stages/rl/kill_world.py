"""A small training run for a process of its own, to be killed.

The folder holds documents.jsonl, train.jsonl, heldout.jsonl and a model; results go to <name>/data, state to
<name>/state. Signals act as in flows/stage.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from flows.stage_guard import Stopped, end_on_signals
from stages.rl import memory_stage, stage
from stages.rl.config import MemoryRLStage, RLStage
from tests.train_settings import RL_SHARED, TRAIN

SHARED = RL_SHARED | {
    "batch_size": 5,
    "aepo": {"enabled": True, "entropy_low": 0.1, "entropy_high": 5.0, "entropy_source": "same_batch"},
    "checkpoint_every_steps": 2,
    "keep_checkpoints": 2,
    "eval_every_steps": 2,
    "eval_prompts": 5,
}
STAGE = {
    "max_input_tokens": 400,
    "max_output_tokens": 8,
    "learning_rate": 1e-3,
    "steps": 5,
    "filter_prompts": 10,
    "filter_rollouts": 2,
}


MEMORY = {
    "agent": {
        "chunk_tokens": 60,
        "memory_tokens": 16,
        "turn_tokens": 12,
        "answer_tokens": 8,
        "prompt_order": "memory_first",
        "split_question": "rules",
    },
    "max_input_tokens": 400,
    "learning_rate": 1e-3,
    "steps": 2,
    "filter_prompts": 0,
    "filter_rollouts": 2,
    "std_scope": "group",
    "turn_weighting": "token",
}


def main(root: Path, name: str) -> None:
    """Run rl@stageN's own function once and exit as the stage's process does."""
    config = RLStage.model_validate({"shared": SHARED, "stage": STAGE, "train": TRAIN, "seed": 11})
    _run(stage.run, config, root, name)


def main_memory(root: Path, name: str) -> None:
    """The same with memory_rl's."""
    shared = SHARED | {"eval_every_steps": 0, "max_row_tokens": 4096}
    config = MemoryRLStage.model_validate({"memory_rl": MEMORY, "shared": shared, "train": TRAIN, "seed": 11})
    _run(memory_stage.run, config, root, name)


def _run(function: Any, config: Any, root: Path, name: str) -> None:
    torch.set_num_threads(1)
    inputs = {"parent": root / "parent"} | {key: root / f"{key}.jsonl" for key in ("train", "heldout", "documents")}
    folders = [root / name / part for part in ("data", "state")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        end_on_signals()
        function(config, inputs, *folders, lambda step, metrics: None)
    except Stopped as stop:
        sys.exit(stop.exit_code)
    (root / name / "done").touch()
