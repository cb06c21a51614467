"""Task-specific advantages (paper Eq. 7; scope `group` is Eq. 3).

    A_i = (r_i - mean of r_i's group) / (std of r over the scope + epsilon)

The scope is all samples of the same task in the batch (paper's default), the group, the batch, or none (no division).
The std is unbiased. Everything is computed in float64: in float32 eight rewards of 0.7 give +-0.06 instead of 0.
Ours (the paper does not say): a group whose rewards are all equal gets exactly 0, and so does every rollout of a scope
whose rewards are all equal or that holds fewer than two rollouts.

Shapes: B rollouts of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

StdScope = Literal["task", "group", "batch", "none"]


def compute_advantages(
    rewards_B: Tensor,
    group_ids_B: Tensor,
    task_types: Sequence[str],
    std_scope: StdScope = "task",
    epsilon: float = 1e-6,
) -> Tensor:
    """Advantage of each rollout.

    rewards_B: one reward per rollout (per trajectory for the memory agent).
    group_ids_B: integer id of each rollout's prompt; members need not be contiguous.
    task_types: task of each rollout, length B.
    Returns float64 [B]. Raises ValueError on unequal lengths, rewards that are not finite or an unknown scope.
    """
    rewards_B = torch.as_tensor(rewards_B).detach().to(torch.float64)
    group_ids_B = torch.as_tensor(group_ids_B, device=rewards_B.device)
    if rewards_B.ndim != 1 or group_ids_B.shape != rewards_B.shape or len(task_types) != len(rewards_B):
        raise ValueError(
            f"rewards {tuple(rewards_B.shape)}, group ids {tuple(group_ids_B.shape)} and {len(task_types)} task types "
            "must all have one entry per rollout"
        )
    if not torch.isfinite(rewards_B).all():
        raise ValueError("a reward is NaN or infinite")
    advantages_B = torch.zeros_like(rewards_B)
    for group in group_ids_B.unique():
        members = group_ids_B == group
        if rewards_B[members].max() > rewards_B[members].min():
            advantages_B[members] = rewards_B[members] - rewards_B[members].mean()
    if std_scope == "none":
        return advantages_B
    scope_B = _scope_ids(group_ids_B, task_types, std_scope)
    for scope in scope_B.unique():
        members = scope_B == scope
        r = rewards_B[members]
        if len(r) < 2 or r.max() == r.min():
            advantages_B[members] = 0.0
        else:
            advantages_B[members] /= r.std(unbiased=True) + epsilon
    return advantages_B


def _scope_ids(group_ids_B: Tensor, task_types: Sequence[str], std_scope: StdScope) -> Tensor:
    """An integer per rollout; equal integers share a std."""
    if std_scope == "group":
        return group_ids_B
    if std_scope == "batch":
        return torch.zeros_like(group_ids_B)
    if std_scope == "task":
        names = sorted(set(task_types))
        return torch.tensor([names.index(task) for task in task_types], device=group_ids_B.device)
    raise ValueError(f"std_scope is {std_scope!r}; it must be task, group, batch or none")
