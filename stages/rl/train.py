"""The RL loop on one page: sample, roll out, reward, advantages, AEPO, update, sync, log, save.

Strictly on-policy: one optimizer step per batch, no KL term, constant learning rate (paper sections 2 and 4). The rollout
source is handed in, so full-context answers and memory trajectories are trained by the same lines.

Departure: after a crash the loop continues from its last checkpoint, with the rollouts that were already finished, and
arrives at the same weights as an unbroken run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.common.errors import LongfuseError
from stages.common.metrics import Emit, StepMetrics
from stages.common.records import Sample
from stages.common.rollouts import RolloutGroup
from stages.common.storage import write_jsonl
from stages.engines.base import RolloutEngine
from stages.rl.advantages import StdScope, compute_advantages
from stages.rl.aepo import EntropyController, batch_entropy, keep_positives, negative_clipping_weights
from stages.rl.batch import Batch, TurnWeighting, overlong_penalty, turn_weights
from stages.rl.checkpoint import Checkpoints
from stages.rl.config import RLSharedConfig
from stages.rl.packing import PackedRow, pack_groups, to_grid
from stages.rl.policy import LossWeights, Policy, StepStats, TokenScores
from stages.rl.reporting import excerpt, peak_memory_gb, step_metrics
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
    """

    step: int = 0
    skipped: int = 0
    without_signal: int = 0
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
) -> Progress:
    """Train for `plan.steps` updates, continuing from the last checkpoint if there is one.

    work_dir receives `metrics.jsonl` and `excerpts/step-*.jsonl`. Raises LongfuseError if more than
    `max_skipped_steps` updates had a loss or gradient that is not finite.
    """
    sampler = TaskBalancedSampler([sample.task_type.value for sample in samples], shared.batch_size, seed)
    controller = EntropyController(shared.aepo.entropy_low, shared.aepo.entropy_high)
    progress = Progress()
    saved = checkpoints.latest()
    if saved is not None:
        policy.load_state_tensors(saved.tensors)
        sampler.load_state_dict(saved.state["sampler"])
        controller.load_state_dict(saved.state["controller"])
        progress = Progress(**saved.state["progress"])
        logger.info("continuing after %d of %d updates", progress.step, plan.steps)
        del saved
    engine.load_weights(policy.named_tensors())
    metrics = StepMetrics(work_dir / "metrics.jsonl", emit, keep_steps=progress.step)

    for step in range(progress.step, plan.steps):
        times = {"step": time.perf_counter()}

        # 1. Rollouts: finished ones of a killed run are taken as they are
        finished = checkpoints.load_groups(step)
        if finished is None:
            engine.wake_up()
            groups = roll_out(source, sampler, samples, shared, step, times)
            engine.sleep()
            checkpoints.save_groups(step, groups, sampler.state_dict())
        else:
            groups = finished[0]
            sampler.load_state_dict(finished[1])
        started = time.perf_counter()

        # 2. Advantages, from rewards before any masking
        batch = Batch(groups)
        rewards_B = batch.rewards_B
        if shared.overlong == "penalise":
            rewards_B = rewards_B + overlong_penalty(batch, plan.answer_tokens, shared.overlong_buffer_tokens)
        advantages_B = compute_advantages(rewards_B, batch.group_ids_B, batch.tasks, plan.std_scope)

        # 3. Entropy before the update, where someone needs it; AEPO's switch
        rows = pack_groups(groups, shared.max_row_tokens, trees_per_row=policy.trees_per_row)
        scores: Sequence[TokenScores] | None = None
        if (
            shared.aepo.enabled and shared.aepo.entropy_source == "same_batch"
        ) or shared.negative_clipping.level != "none":
            scores = policy.logprobs_and_entropy(rows)
        masking = _update_switch(controller, shared, progress, batch, rows, scores)

        # 4. One update
        weight_BT, tokens_per_group = turn_weights(batch, plan.turn_weighting)
        weight_BT = weight_BT * _kept(shared, batch, rows, advantages_B, scores, masking)
        stats = policy.step(
            rows,
            advantages_B,
            LossWeights(weight_BT, batch.group_ids_B, tokens_per_group, len(groups), shared.denominator),
        )
        times["train"] = time.perf_counter() - started
        entropy_BT = _entropy_grid(batch, rows, stats.scores)
        _count(progress, batch, advantages_B, entropy_BT, stats, shared.max_skipped_steps)

        # 5. New weights into the engine; numbers out
        started = time.perf_counter()
        engine.load_weights(policy.named_tensors())
        times["sync"] = time.perf_counter() - started
        times["step"] = time.perf_counter() - times["step"]
        write_jsonl(work_dir / "excerpts" / f"step-{step:06d}.jsonl", excerpt(step, batch, advantages_B))
        values = step_metrics(batch, rows, advantages_B, entropy_BT, stats, masking, times)
        values |= {"progress/prompts": progress.prompts, "progress/tokens": progress.tokens}
        values |= {"progress/skipped_steps": progress.skipped, "perf/peak_memory_gb": peak_memory_gb()}
        metrics.log(step, values)
        logger.info(
            "step %d of %d: reward %.3f, loss %.4f, gradient norm %.3f, %.1f s",
            step + 1,
            plan.steps,
            values["reward/mean"],
            stats.loss,
            stats.grad_norm,
            times["step"],
        )

        # 6. Save; after the last step the model itself is saved
        progress.step = step + 1
        if progress.step % shared.checkpoint_every_steps == 0 and progress.step < plan.steps:
            checkpoints.save(progress.step, policy.state_tensors(), _state(sampler, controller, progress))
    return progress


def roll_out(
    source: RolloutSource,
    sampler: TaskBalancedSampler,
    samples: Sequence[Sample],
    shared: RLSharedConfig,
    step: int,
    times: dict[str, float],
) -> list[RolloutGroup]:
    """The scored groups of one step, group ids 0..B-1.

    Dynamic sampling replaces groups whose rewards are all equal by others of the same task, at most max_refills times;
    what is still equal then stays.
    """
    started = time.perf_counter()
    drawn = next(sampler)
    groups = source([samples[i] for i in drawn], step)
    times["reward"] = source.reward_seconds
    for attempt in range(1, shared.max_refills + 1 if shared.dynamic_sampling else 1):
        flat = [place for place, group in enumerate(groups) if len({r.reward for r in group.rollouts}) == 1]
        if not flat:
            break
        for place in flat:
            drawn[place] = sampler.draw(groups[place].task_type, 1, exclude=drawn)[0]
        refilled = source([samples[drawn[place]] for place in flat], step, attempt)
        times["reward"] += source.reward_seconds
        for place, group in zip(flat, refilled, strict=True):
            groups[place] = group
        logger.info("step %d: %d groups had equal rewards and were drawn again", step + 1, len(flat))
    times["rollout"] = time.perf_counter() - started
    logprobs = (lp for g in groups for r in g.rollouts for segment in r.segments for lp in segment.logprobs)
    if not all(map(math.isfinite, logprobs)):
        raise LongfuseError(
            "the engine returned log-probabilities that are not finite: the model's weights are broken."
        )
    return [replace(group, group_id=place) for place, group in enumerate(groups)]


def _update_switch(
    controller: EntropyController,
    shared: RLSharedConfig,
    progress: Progress,
    batch: Batch,
    rows: Sequence[PackedRow],
    scores: Sequence[TokenScores] | None,
) -> bool:
    """Whether this batch's negatives are masked."""
    if not shared.aepo.enabled:
        return False
    entropy = progress.previous_entropy
    if shared.aepo.entropy_source == "same_batch":
        assert scores is not None
        entropy = batch_entropy(_entropy_grid(batch, rows, scores), batch.mask_BT)
    if entropy is None or math.isnan(entropy):
        return controller.masking  # first batch; or a NaN, which the update will find, skip and count
    return controller.update(entropy)


def _kept(
    shared: RLSharedConfig,
    batch: Batch,
    rows: Sequence[PackedRow],
    advantages_B: Tensor,
    scores: Sequence[TokenScores] | None,
    masking: bool,
) -> Tensor:
    """Weights [B, 1] or [B, T] in {0, 1}: what overlong answers, AEPO and negative clipping leave."""
    masked_B = batch.truncated_B if shared.overlong == "mask" else torch.zeros_like(batch.truncated_B)
    kept_BT = (~masked_B).float()[:, None]
    if masking:
        kept_BT = kept_BT * keep_positives(advantages_B)[:, None]
    clipping = shared.negative_clipping
    if clipping.level != "none":
        assert scores is not None
        entropy_BT = _entropy_grid(batch, rows, scores)
        kept_BT = kept_BT * negative_clipping_weights(
            advantages_B, entropy_BT, batch.mask_BT, clipping.level, clipping.side, clipping.threshold
        )
    return kept_BT


def _entropy_grid(batch: Batch, rows: Sequence[PackedRow], scores: Sequence[TokenScores]) -> Tensor:
    return to_grid(rows, [score.entropy_N for score in scores], *batch.shape)


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


def _state(sampler: TaskBalancedSampler, controller: EntropyController, progress: Progress) -> dict[str, Any]:
    return {"sampler": sampler.state_dict(), "controller": controller.state_dict(), "progress": vars(progress).copy()}
