"""What the loop computes from a batch of groups besides the advantages: flat columns, token weights, length penalty.

Weights multiply the loss's numerator, `tokens_per_group` is its denominator; how a trajectory's turns share the gradient
(recipe section 4, `turn_weighting`) is a choice of these two:

    token        every generated token weighs 1; denominator: tokens of all turns of all G trajectories (default)
    trajectory   J = 1/G sum_i A_i * mean over trajectory i's tokens; weight 1/|y_i|, denominator G
    final_only   numerator and denominator hold the final answer's tokens alone

Example, G = 2, turns of 3 + 1 and 2 + 2 tokens:
    token        weights 1 1 1 1 | 1 1 1 1       denominator 8
    trajectory   weights 1/4 x 4 | 1/4 x 4       denominator 2
    final_only   weights 0 0 0 1 | 0 0 1 1       denominator 3

Shapes: B rollouts of the batch, T most generated tokens of a rollout (all turns).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stages.common.rollouts import Rollout, RolloutGroup

TurnWeighting = Literal["token", "trajectory", "final_only"]


class Batch:
    """The rollouts of a batch, flat and in order; group ids are places in the batch.

    rewards_B: float64. group_ids_B: int64. tasks: task type per rollout. tokens_B: generated tokens.
    mask_BT: True where a token was generated.
    """

    def __init__(self, groups: Sequence[RolloutGroup]) -> None:
        self.groups = groups
        pairs = [(place, group, rollout) for place, group in enumerate(groups) for rollout in group.rollouts]
        self.rollouts: list[Rollout] = [rollout for _, _, rollout in pairs]
        self.tasks = [group.task_type for _, group, _ in pairs]
        self.group_ids_B = torch.tensor([place for place, _, _ in pairs])
        self.rewards_B = torch.tensor([rollout.reward for rollout in self.rollouts], dtype=torch.float64)
        self.tokens_B = torch.tensor([rollout.num_response_tokens for rollout in self.rollouts])
        self.truncated_B = torch.tensor([rollout.truncated for rollout in self.rollouts])
        self.mask_BT = torch.arange(self.shape[1])[None, :] < self.tokens_B[:, None]

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)"""
        return len(self.rollouts), int(self.tokens_B.max())


def turn_weights(batch: Batch, turn_weighting: TurnWeighting) -> tuple[Tensor, dict[int, float]]:
    """(weight_BT, tokens_per_group) of a turn weighting; see the top of the file."""
    mask_BT = batch.mask_BT
    if turn_weighting == "token":
        weight_BT, counts_B = mask_BT.float(), batch.tokens_B
    elif turn_weighting == "trajectory":
        weight_BT, counts_B = mask_BT.float() / batch.tokens_B.clamp(min=1)[:, None], torch.ones_like(batch.tokens_B)
    else:
        final_B = torch.tensor([len(rollout.segments[-1].response_ids) for rollout in batch.rollouts])
        place_T = torch.arange(batch.shape[1])
        weight_BT = (mask_BT & (place_T[None, :] >= (batch.tokens_B - final_B)[:, None])).float()
        counts_B = final_B
    tokens_per_group = {place: float(counts_B[batch.group_ids_B == place].sum()) for place in range(len(batch.groups))}
    return weight_BT, tokens_per_group


def overlong_penalty(batch: Batch, max_tokens: int, buffer_tokens: int) -> Tensor:
    """DAPO's linear length penalty [B], in [-1, 0]: 0 up to max_tokens - buffer_tokens, -1 at max_tokens.

    Concerns the final answer's length.
    """
    final_B = torch.tensor([len(rollout.segments[-1].response_ids) for rollout in batch.rollouts], dtype=torch.float64)
    return ((max_tokens - buffer_tokens - final_B) / buffer_tokens).clamp(-1.0, 0.0)


def engine_logprobs(batch: Batch, rollout_index_N: Tensor, token_index_N: Tensor) -> Tensor:
    """The engine's log-probabilities (temperature 1) of some scored tokens, float64 [N]."""
    needed = set(rollout_index_N.tolist())
    logprobs = {i: [lp for segment in batch.rollouts[i].segments for lp in segment.logprobs] for i in needed}
    pairs = zip(rollout_index_N.tolist(), token_index_N.tolist(), strict=True)
    return torch.tensor([logprobs[rollout][token] for rollout, token in pairs], dtype=torch.float64)


def k3_kl(trainer_N: Tensor, engine_N: Tensor) -> float:
    """mean(exp(d) - 1 - d), d = trainer - engine log-probability: how far the two forward passes are apart."""
    difference_N = trainer_N.to(torch.float64) - engine_N
    return float((torch.exp(difference_N) - 1 - difference_N).mean())
