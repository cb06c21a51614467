"""Adaptive entropy-controlled policy optimisation: when to leave out negative samples (paper section 4.4, Eq. 8-11).

The switch has hysteresis: batch entropy above `high` starts masking every sequence with a negative advantage, and
masking stays on until the entropy falls below `low`. (The authors' published snippet masks inside the band instead,
drops samples and so shrinks the denominator; they confirmed the reading used here.) Masked means weight 0 in the
numerator of Eq. 4; the denominator, the group mean and the std keep every sequence.

Shapes: B rollouts, T generated tokens of a rollout (for the memory agent: of all its turns). Entropies in nats, over the
full vocabulary at the sampling temperature.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor


class EntropyController:
    """The hysteresis switch. Starts not masking.

    low, high: nats; strictly above `high` masking starts, strictly below `low` it ends.
    """

    def __init__(self, low: float, high: float) -> None:
        if not 0 <= low <= high:
            raise ValueError(f"entropy thresholds must satisfy 0 <= low <= high, got low {low}, high {high}")
        self.low = low
        self.high = high
        self.masking = False

    def update(self, batch_entropy: float) -> bool:
        """Take in the batch's entropy; True: mask the negatives of this batch. ValueError on NaN."""
        if math.isnan(batch_entropy):
            raise ValueError("the batch's entropy is NaN: the model's logits are not finite")
        if batch_entropy > self.high:
            self.masking = True
        elif batch_entropy < self.low:
            self.masking = False
        return self.masking

    def state_dict(self) -> dict[str, Any]:
        """JSON-safe. The thresholds are parameters, only the switch is state."""
        return {"masking": self.masking}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the switch."""
        self.masking = bool(state["masking"])


def batch_entropy(entropy_BT: Tensor, mask_BT: Tensor) -> float:
    """Eq. 11: mean over sequences of the sequence's mean token entropy; sequences without tokens do not count.

    Returns NaN if a counted entropy is NaN. ValueError if no token is counted.
    """
    mask_BT = mask_BT.to(torch.bool)
    tokens_B = mask_BT.sum(dim=1)
    if not tokens_B.any():
        raise ValueError("no token to measure the entropy of")
    sums_B = _masked_sum(entropy_BT, mask_BT)
    return float((sums_B[tokens_B > 0] / tokens_B[tokens_B > 0]).mean())


def token_entropy(entropy_BT: Tensor, mask_BT: Tensor) -> float:
    """Mean entropy over all tokens of the batch (what verl logs; reported, never used by the switch)."""
    mask_BT = mask_BT.to(torch.bool)
    return float(_masked_sum(entropy_BT, mask_BT).sum() / mask_BT.sum())


def keep_positives(advantages_B: Tensor) -> Tensor:
    """AEPO's mask: weight 0.0 for sequences with A < 0, else 1.0."""
    return (advantages_B >= 0).to(torch.float32)


def negative_clipping_weights(
    advantages_B: Tensor,
    entropy_BT: Tensor,
    mask_BT: Tensor,
    level: Literal["none", "token", "sequence"],
    side: Literal["high", "low"],
    threshold: float,
) -> Tensor:
    """Eq. 8-9: weight 0.0 for tokens of negative sequences whose entropy lies strictly beyond the threshold, else 1.0.

    level: `token` compares each token's entropy, `sequence` the sequence's mean and clips it whole.
    Returns [B, T].
    """
    weight_BT = torch.ones_like(entropy_BT, dtype=torch.float32)
    if level == "none":
        return weight_BT
    if level == "sequence":
        mask_BT = mask_BT.to(torch.bool)
        mean_B = _masked_sum(entropy_BT, mask_BT) / mask_BT.sum(dim=1).clamp(min=1)
        measured_BT = mean_B[:, None].expand_as(entropy_BT)
    else:
        measured_BT = entropy_BT
    beyond_BT = measured_BT > threshold if side == "high" else measured_BT < threshold
    negative_B1 = (advantages_B < 0)[:, None]
    return weight_BT.masked_fill(beyond_BT & negative_B1, 0.0)


def _masked_sum(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum over tokens in float64; what is masked may be NaN."""
    values_BT = values_BT.to(torch.float64)
    return torch.where(mask_BT, values_BT, torch.zeros_like(values_BT)).sum(dim=1)
