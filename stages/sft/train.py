"""Supervised warm-up: mean negative log-likelihood of the answer tokens, one optimizer step per batch.

It is the policy loss with every advantage 1 and the batch's tokens as denominator, so packing, LM head, optimizer and
checkpoints are those of stages/rl. Learning rate: linear warm-up, then linear decay to zero.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.errors import LongfuseError
from stages.common.metrics import Emit, StepMetrics
from stages.rl.checkpoint import Checkpoints
from stages.rl.packing import Branch, PackedRow, Tree, pack_trees
from stages.rl.policy import LossWeights, Policy, StepStats
from stages.rl.reporting import peak_memory_gb
from stages.sft.config import SftConfig
from stages.sft.dataset import Example, batch_indices

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """The loop's own state, part of every checkpoint."""

    step: int = 0
    skipped: int = 0
    prompts: int = 0
    tokens: int = 0


def learning_rate_at(step: int, config: SftConfig) -> float:
    """Learning rate of a step (0-based): warmup_steps up, then down to zero after the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    return config.learning_rate * (config.steps - step) / max(config.steps - config.warmup_steps, 1)


def train(
    *,
    policy: Policy,
    examples: Sequence[Example],
    config: SftConfig,
    seed: int,
    checkpoints: Checkpoints,
    work_dir: Path,
    emit: Emit,
    first_process: bool = True,
) -> Progress:
    """Train for `config.steps` updates, continuing from the last checkpoint if there is one.

    work_dir receives `metrics.jsonl`. first_process: of those that train together; it alone writes metrics. Raises LongfuseError if more than `max_skipped_steps` updates were not finite.
    """
    progress = Progress()
    saved = checkpoints.latest()
    if saved is not None:
        policy.load_state_tensors(saved.tensors)
        progress = Progress(**saved.state["progress"])
        logger.info("continuing after %d of %d updates", progress.step, config.steps)
        del saved
    metrics = StepMetrics(work_dir / "metrics.jsonl", emit, keep_steps=progress.step) if first_process else None
    task_types = [example.task_type for example in examples]

    for step in range(progress.step, config.steps):
        started = time.perf_counter()
        batch = [examples[index] for index in batch_indices(task_types, config.batch_size, step, seed)]
        rows = answer_rows(batch, config.max_tokens, policy.trees_per_row)
        policy.set_learning_rate(learning_rate_at(step, config))
        stats = update(policy, batch, rows)

        progress.prompts += len(batch)
        progress.tokens += sum(len(example.answer_ids) for example in batch)
        if stats.skipped:
            progress.skipped += 1
            logger.warning("update skipped: loss %s, gradient norm %s", stats.loss, stats.grad_norm)
        if progress.skipped > config.max_skipped_steps:
            raise LongfuseError(
                f"{progress.skipped} updates had a loss or gradient that is not finite, {config.max_skipped_steps} are "
                "allowed (sft.max_skipped_steps). Lower sft.learning_rate, or set train.compute_dtype to float32."
            )
        values = step_metrics(step, config, stats, rows, progress, time.perf_counter() - started)
        if metrics is not None:
            metrics.log(step, values)
        logger.info("step %d of %d: loss %.4f, %.1f s", step + 1, config.steps, _loss(stats), values["time/step_s"])
        progress.step = step + 1
        if progress.step % config.checkpoint_every_steps == 0 and progress.step < config.steps:
            checkpoints.save(progress.step, policy.state_tensors(), {"progress": vars(progress).copy()})
    return progress


def answer_rows(batch: Sequence[Example], max_tokens: int, trees_per_row: int | None) -> list[PackedRow]:
    """The batch as rows; example i is rollout i."""
    trees = [Tree(example.prompt_ids, (Branch(example.answer_ids, index, 0),)) for index, example in enumerate(batch)]
    return pack_trees(trees, max_tokens, trees_per_row)


def update(policy: Policy, batch: Sequence[Example], rows: Sequence[PackedRow]) -> StepStats:
    """One optimizer step on the mean negative log-likelihood of the batch's answer tokens."""
    lengths = [len(example.answer_ids) for example in batch]
    weights = LossWeights(
        weight_BT=torch.ones(len(batch), max(lengths)),
        group_ids_B=torch.zeros(len(batch), dtype=torch.int64),
        tokens_per_group={0: sum(lengths)},
        num_groups=1,
        denominator="batch",
    )
    return policy.step(rows, torch.ones(len(batch), dtype=torch.float64), weights)


def step_metrics(
    step: int, config: SftConfig, stats: StepStats, rows: Sequence[PackedRow], progress: Progress, seconds: float
) -> dict[str, float]:
    """Metrics of one update; values that are not finite (a skipped update) are left out."""
    tokens = sum(row.num_tokens for row in rows)
    values = {
        "loss/sft": _loss(stats),
        "entropy/token_mean": float(torch.cat([score.entropy_N for score in stats.scores]).double().mean()),
        "grad_norm": stats.grad_norm,
        "learning_rate": learning_rate_at(step, config),
        "progress/prompts": float(progress.prompts),
        "progress/tokens": float(progress.tokens),
        "progress/skipped_steps": float(progress.skipped),
        "time/step_s": seconds,
        "perf/tokens_per_s": tokens / seconds,
        "perf/peak_memory_gb": peak_memory_gb(),
    }
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _loss(stats: StepStats) -> float:
    """Mean negative log-likelihood: the policy loss has its gradient, but the constant value -1."""
    return -float(torch.cat([score.logprobs_N for score in stats.scores]).double().mean())
