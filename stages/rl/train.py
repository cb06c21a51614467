"""The RL loop on one page: sample, roll out, reward, advantages, AEPO, update, sync, log, save.

Strictly on-policy: one optimizer step per batch, no KL term, constant learning rate (paper sections 2 and 4). The rollout
source is handed in, so full-context answers and memory trajectories are trained by the same lines.

Departure: after a crash the loop continues from its last checkpoint, with the groups that were already finished, and
arrives at the same weights as an unbroken run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.common.errors import LongfuseError
from stages.common.metrics import Emit, StepMetrics
from stages.common.records import Sample
from stages.common.storage import write_jsonl
from stages.engines.base import RolloutEngine
from stages.rl.advantages import StdScope, compute_advantages
from stages.rl.aepo import EntropyController, batch_entropy
from stages.rl.batch import Batch, TurnWeighting, overlong_penalty, turn_weights
from stages.rl.checkpoint import Checkpoints
from stages.rl.collect import collect_groups
from stages.rl.config import RLSharedConfig
from stages.rl.heldout import HeldOut
from stages.rl.masking import kept_weights, needs_entropy_before_update, update_switch
from stages.rl.packing import pack_groups, to_grid
from stages.rl.policy import LossWeights, Policy, StepStats
from stages.rl.reporting import excerpt, step_metrics
from stages.rl.rollout import RolloutSource
from stages.rl.sampler import TaskBalancedSampler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainPlan:
    """In what one stage differs from another. answer_tokens: limit of the final answer, for the length penalty."""

    steps: int
    answer_tokens: int
    std_scope: StdScope
    turn_weighting: TurnWeighting


@dataclass
class Progress:
    """The loop's own state, part of every checkpoint.

    skipped: updates that were not finite. without_signal: updates in which every advantage was 0 (weight decay only).
    switches: how often AEPO went on or off.
    """

    step: int = 0
    skipped: int = 0
    without_signal: int = 0
    switches: int = 0
    prompts: int = 0
    tokens: int = 0
    previous_entropy: float | None = None


def train(
    *,
    policy: Policy,
    engine: RolloutEngine,
    source: RolloutSource,
    samples: Sequence[Sample],
    shared: RLSharedConfig,
    plan: TrainPlan,
    seed: int,
    checkpoints: Checkpoints,
    work_dir: Path,
    emit: Emit,
    held_out: HeldOut | None = None,
    first_process: bool = True,
) -> Progress:
    """Train for `plan.steps` updates, continuing from the last checkpoint if there is one.

    work_dir receives `metrics.jsonl` and `excerpts/step-*.jsonl`. first_process: of those that train together; it alone
    writes metrics. Raises LongfuseError if more than
    `max_skipped_steps` updates had a loss or gradient that is not finite.
    """
    sampler = TaskBalancedSampler([sample.task_type.value for sample in samples], shared.batch_size, seed)
    controller = EntropyController(shared.aepo.entropy_low, shared.aepo.entropy_high)
    progress = _resume(checkpoints, policy, sampler, controller)
    engine.load_weights(policy.named_tensors())
    metrics = StepMetrics(work_dir / "metrics.jsonl", emit, keep_steps=progress.step) if first_process else None

    for step in range(progress.step, plan.steps):
        times = {"step": time.perf_counter()}

        # 1. Rollouts, each group on disk as it finishes: those of a killed run are taken as they are
        finished = checkpoints.finished(step)
        with checkpoints.saved_if_stopped(step, policy.state_tensors, _state(sampler, controller, progress)):
            engine.wake_up()
            evaluated = held_out.evaluate(step, finished) if held_out else {}
            times["rollout"] = time.perf_counter()
            groups, times["reward"] = collect_groups(source, sampler, samples, shared, step, finished)
            times["rollout"] = time.perf_counter() - times["rollout"]
            engine.sleep()
        times["train"] = time.perf_counter()

        # 2. Advantages, from rewards before any masking
        batch = Batch(groups)
        rewards_B = batch.rewards_B
        if shared.overlong == "penalise":
            rewards_B = rewards_B + overlong_penalty(batch, plan.answer_tokens, shared.overlong_buffer_tokens)
        advantages_B = compute_advantages(rewards_B, batch.group_ids_B, batch.tasks, plan.std_scope)

        # 3. Entropy before the update, where someone needs it; AEPO's switch
        rows = pack_groups(groups, shared.max_row_tokens, trees_per_row=policy.trees_per_row)
        entropy_BT: Tensor | None = None
        if needs_entropy_before_update(shared):
            scores = policy.logprobs_and_entropy(rows)
            entropy_BT = to_grid(rows, [score.entropy_N for score in scores], *batch.shape)
        was_masking = controller.masking
        masking = update_switch(controller, shared, batch, entropy_BT, progress.previous_entropy)

        # 4. One update
        weight_BT, tokens_per_group = turn_weights(batch, plan.turn_weighting)
        weight_BT = weight_BT * kept_weights(shared, batch, advantages_B, entropy_BT, masking)
        loss_weights = LossWeights(weight_BT, batch.group_ids_B, tokens_per_group, len(groups), shared.denominator)
        stats = policy.step(rows, advantages_B, loss_weights)
        times["train"] = time.perf_counter() - times["train"]
        entropy_BT = to_grid(rows, [score.entropy_N for score in stats.scores], *batch.shape)
        progress.switches += masking != was_masking
        _count(progress, batch, advantages_B, entropy_BT, stats, shared.max_skipped_steps)

        # 5. New weights into the engine; numbers out
        times["sync"] = time.perf_counter()
        engine.load_weights(policy.named_tensors())
        times["sync"] = time.perf_counter() - times["sync"]
        times["step"] = time.perf_counter() - times["step"]
        if metrics is not None:
            write_jsonl(work_dir / "excerpts" / f"step-{step:06d}.jsonl", excerpt(step, batch, advantages_B))
            counters = {"aepo/switches": progress.switches, "progress/prompts": progress.prompts}
            counters |= {"progress/tokens": progress.tokens, "progress/skipped_steps": progress.skipped}
            values = step_metrics(batch, rows, advantages_B, weight_BT, entropy_BT, stats, masking, times)
            metrics.log(step, values | counters | evaluated | source.reward.take_metrics())
            message = "step %d of %d: reward %.3f, loss %.4f, gradient norm %.3f, %.1f s"
            reward = values["reward/mean"]
            logger.info(message, step + 1, plan.steps, reward, stats.loss, stats.grad_norm, times["step"])

        # 6. Save; after the last step the model itself is saved
        progress.step = step + 1
        if progress.step % shared.checkpoint_every_steps == 0 and progress.step < plan.steps:
            checkpoints.save(progress.step, policy.state_tensors(), _state(sampler, controller, progress))
    return progress


def _state(sampler: TaskBalancedSampler, controller: EntropyController, progress: Progress) -> dict[str, Any]:
    return {"sampler": sampler.state_dict(), "controller": controller.state_dict(), "progress": vars(progress).copy()}


def _resume(
    checkpoints: Checkpoints, policy: Policy, sampler: TaskBalancedSampler, controller: EntropyController
) -> Progress:
    """Take up the newest usable checkpoint; from the start if there is none."""
    saved = checkpoints.latest()
    if saved is None:
        return Progress()
    policy.load_state_tensors(saved.tensors)
    sampler.load_state_dict(saved.state["sampler"])
    controller.load_state_dict(saved.state["controller"])
    logger.info("continuing after %d updates", saved.step)
    return Progress(**saved.state["progress"])


def _count(
    progress: Progress, batch: Batch, advantages_B: Tensor, entropy_BT: Tensor, stats: StepStats, max_skipped: int
) -> None:
    """Advance the counters. LongfuseError if too many updates were skipped."""
    progress.prompts += len(batch.groups)
    progress.tokens += int(batch.tokens_B.sum())
    entropy = batch_entropy(entropy_BT, batch.mask_BT)
    if math.isfinite(entropy):
        progress.previous_entropy = entropy
    if not advantages_B.any():
        progress.without_signal += 1
        logger.warning("the rewards of every group were equal: this update learned nothing")
    if stats.skipped:
        progress.skipped += 1
        logger.warning("update skipped: loss %s, gradient norm %s", stats.loss, stats.grad_norm)
    if progress.skipped > max_skipped:
        raise LongfuseError(
            f"{progress.skipped} updates had a loss or gradient that is not finite, {max_skipped} are allowed "
            "(rl.shared.max_skipped_steps). Lower the stage's learning_rate, or set train.compute_dtype to float32."
        )
