"""The numbers of a training step, by the keys of design section 4, and a few rollouts for reading."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stages.common.rollouts import RolloutGroup
from stages.rl.aepo import batch_entropy, token_entropy
from stages.rl.batch import Batch, engine_logprobs, k3_kl
from stages.rl.packing import PackedRow, unshared_tokens
from stages.rl.policy import StepStats

EXCERPT_GROUPS = 5  # groups per step that are kept for reading
EXCERPT_CHARACTERS = 2000


def step_metrics(
    batch: Batch,
    rows: Sequence[PackedRow],
    advantages_B: Tensor,
    weight_BT: Tensor,
    entropy_BT: Tensor,
    stats: StepStats,
    masking: bool,
    times: Mapping[str, float],
) -> dict[str, float]:
    """Metrics of one update. Values that are not finite (a skipped update) are left out.

    weight_BT: the numerator's weights, which tell what was masked.
    """
    tokens_B = batch.tokens_B.double()
    row_tokens = sum(row.num_tokens for row in rows)
    negative_B = advantages_B < 0
    prompts = [len(rollout.segments[-1].prompt_ids) for rollout in batch.rollouts]
    values: dict[str, float] = {
        "reward/mean": float(batch.rewards_B.mean()),
        "reward/std": float(batch.rewards_B.std(unbiased=False)),
        "reward/zero_std_frac": sum(_is_flat(group) for group in batch.groups) / len(batch.groups),
        "entropy/seq_mean": batch_entropy(entropy_BT, batch.mask_BT),
        "entropy/token_mean": token_entropy(entropy_BT, batch.mask_BT),
        "aepo/masking": float(masking),
        "aepo/negatives_masked": float(negative_B.sum()) if masking else 0.0,
        "adv/abs_mean": float(advantages_B.abs().mean()),
        "adv/positive_frac": float((advantages_B > 0).double().mean()),
        "adv/negative_frac": float(negative_B.double().mean()),
        "loss/policy": stats.loss,
        "loss/masked_token_frac": float(((weight_BT == 0) & batch.mask_BT).sum() / batch.mask_BT.sum()),
        "grad_norm": stats.grad_norm,
        "len/prompt/mean": sum(prompts) / len(prompts),
        "len/prompt/max": float(max(prompts)),
        "len/response/mean": float(tokens_B.mean()),
        "len/response/p95": percentile(batch.tokens_B.tolist(), 0.95),
        "len/response/max": float(tokens_B.max()),
        "len/truncated_frac": float(batch.truncated_B.double().mean()),
        "perf/unique_token_frac": row_tokens / unshared_tokens(batch.groups),
        "perf/tokens_per_s": row_tokens / times["train"],
        "perf/peak_memory_gb": peak_memory_gb(),
        **{f"time/{name}_s": seconds for name, seconds in times.items()},
    }
    for side, chosen_B in (("positive", advantages_B > 0), ("negative", negative_B)):
        if chosen_B.any():
            values[f"entropy/{side}"] = batch_entropy(entropy_BT[chosen_B], batch.mask_BT[chosen_B])
    for task in sorted(set(batch.tasks)):
        mine_B = torch.tensor([other == task for other in batch.tasks])
        values[f"reward/{task}/mean"] = float(batch.rewards_B[mine_B].mean())
        values[f"adv/std/{task}"] = float(advantages_B[mine_B].std(unbiased=False))
        values[f"entropy/{task}"] = batch_entropy(entropy_BT[mine_B], batch.mask_BT[mine_B])
        values[f"len/truncated_frac/{task}"] = float(batch.truncated_B[mine_B].double().mean())
    values |= _mismatch(batch, rows[0], stats)
    if any(len(rollout.segments) > 1 or "turns" in rollout.counters for rollout in batch.rollouts):
        counts = [rollout.counters for rollout in batch.rollouts]
        values["memory/turns"] = sum(len(rollout.segments) for rollout in batch.rollouts) / len(batch.rollouts)
        values["memory/parse_failures"] = float(sum(count.get("parse_failures", 0) for count in counts))
    values |= _judged([rollout.counters for rollout in batch.rollouts if "judge_asked" in rollout.counters])
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _judged(counters: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """What an LLM judge said of the answers that the rules refused; a yes is a disagreement. Nothing without a judge."""
    if not counters:
        return {}
    return {
        "judge/asked": float(len(counters)),
        "judge/disagreements": float(sum(counter["judge_yes"] for counter in counters)),
        "judge/failed": float(sum(counter["judge_failed"] for counter in counters)),
    }


def _mismatch(batch: Batch, first: PackedRow, stats: StepStats) -> dict[str, float]:
    """How far trainer and engine are apart, on the first row, at temperature 1."""
    raw_N = stats.scores[0].raw_logprobs_N
    if raw_N is None:
        return {}
    engine_N = engine_logprobs(batch, first.rollout_index_N, first.token_index_N)
    difference_N = (raw_N.cpu().double() - engine_N).abs()
    return {
        "mismatch/k3_kl": k3_kl(raw_N.cpu(), engine_N),
        "mismatch/logp_abs_mean": float(difference_N.mean()),
        "mismatch/logp_abs_max": float(difference_N.max()),
    }


def _is_flat(group: RolloutGroup) -> bool:
    """True if the group's rewards are all equal: it has no gradient."""
    return len({rollout.reward for rollout in group.rollouts}) == 1


def percentile(values: Sequence[float], fraction: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return float(ordered[max(0, math.ceil(fraction * len(ordered)) - 1)])


def peak_memory_gb() -> float:
    """Peak of the GPU's allocations, or of the process's resident memory, in 2^30 bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def excerpt(step: int, batch: Batch, advantages_B: Tensor) -> list[dict[str, Any]]:
    """The first and the last rollout of some groups, for reading."""
    lines, place = [], 0
    for group in batch.groups[:EXCERPT_GROUPS]:
        for member in (0, len(group.rollouts) - 1):
            rollout = group.rollouts[member]
            lines.append(
                {
                    "step": step,
                    "sample_id": group.sample_id,
                    "task_type": group.task_type,
                    "rollout": member,
                    "text": rollout.text[:EXCERPT_CHARACTERS],
                    "reward": rollout.reward,
                    "advantage": float(advantages_B[place + member]),
                    "response_tokens": rollout.num_response_tokens,
                    "segments": len(rollout.segments),
                    "truncated": rollout.truncated,
                }
            )
        place += len(group.rollouts)
    return lines
