"""The policy loss (paper Eq. 4): strictly on-policy, token-level, divided by the group's tokens.

    J = mean over groups g of  [ sum over rollouts i in g, tokens t of  A_i * rho_it * w_it ] / tokens of g
    loss = -J

One gradient step per batch, so the importance ratio rho = exp(logp - stop_gradient(logp)) is 1 in value and only carries
the gradient; no clipping and no engine's log-probability enters. `denominator="batch"` divides one sum by all tokens of
the batch instead (DAPO, TRL, verl). A weight of 0 (masked or clipped) takes a token out of the numerator, never out of
the denominator.

The loss is a plain sum of per-token terms over constants of the global batch, so losses of micro-batches and of data-
parallel ranks add up to the full one.

Shapes: B rollouts, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Denominator = Literal["group", "batch"]


@dataclass(frozen=True)
class LossOutput:
    """loss: scalar to be minimised. tokens: generated tokens seen. active_tokens: those with weight != 0 and A != 0."""

    loss: Tensor
    tokens: int
    active_tokens: int


def policy_loss(
    logprobs_BT: Tensor,
    advantages_B: Tensor,
    mask_BT: Tensor,
    group_ids_B: Tensor | Sequence[int],
    denominator: Denominator = "group",
    weight_BT: Tensor | None = None,
    tokens_per_group: Mapping[int, float] | None = None,
    num_groups: int | None = None,
) -> LossOutput:
    """The loss of some rollouts of a batch.

    logprobs_BT: with gradient. advantages_B: one per rollout. mask_BT: 1 where a token was generated.
    group_ids_B: the prompt of each rollout. weight_BT: multiplies the numerator only.
    tokens_per_group: group id -> tokens of that group in the whole global batch; num_groups: groups of the global
    batch. Both default to what mask_BT and group_ids_B hold. All groups count, also those whose advantages are all 0.
    Raises ValueError for a group id that tokens_per_group lacks or an unknown denominator.
    """
    mask_BT = mask_BT.to(torch.bool)
    group_ids_B = torch.as_tensor(group_ids_B).cpu()
    if tokens_per_group is None:
        tokens_per_group = _count_tokens(group_ids_B, mask_BT)
    present_U, which_B = group_ids_B.unique(return_inverse=True)
    if missing := [group for group in present_U.tolist() if group not in tokens_per_group]:
        raise ValueError(f"tokens_per_group lacks groups {missing}")
    if denominator == "group":
        count = len(tokens_per_group) if num_groups is None else num_groups
        divisors = [(tokens_per_group[group] or 1) * count for group in present_U.tolist()]
    elif denominator == "batch":
        divisors = [sum(tokens_per_group.values()) or 1] * len(present_U)
    else:
        raise ValueError(f"denominator is {denominator!r}; it must be group or batch")

    divisor_B = torch.tensor(divisors, dtype=torch.float64)[which_B].to(advantages_B.device)
    scale_B = advantages_B.to(torch.float64) / divisor_B
    coefficient_BT = scale_B[:, None].to(logprobs_BT.dtype).expand_as(logprobs_BT)
    if weight_BT is not None:
        coefficient_BT = coefficient_BT * weight_BT.to(logprobs_BT.dtype)
    # Padding may hold anything; a masked-out NaN must not reach the sum or its gradient.
    safe_BT = torch.where(mask_BT, logprobs_BT, torch.zeros_like(logprobs_BT))
    ratio_BT = torch.exp(safe_BT - safe_BT.detach())
    loss = -(ratio_BT * coefficient_BT * mask_BT).sum()
    return LossOutput(loss, int(mask_BT.sum()), int(((coefficient_BT != 0) & mask_BT).sum()))


def _count_tokens(group_ids_B: Tensor, mask_BT: Tensor) -> dict[int, float]:
    counts: dict[int, float] = {}
    for group, tokens in zip(group_ids_B.tolist(), mask_BT.sum(dim=1).tolist(), strict=True):
        counts[group] = counts.get(group, 0) + tokens
    return counts
