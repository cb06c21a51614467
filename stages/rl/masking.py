"""Which generated tokens count in the loss's numerator: turns, overlong answers, AEPO's switch, negative clipping.

Everything here is a weight in {0, 1} (or a turn's share) on the numerator; the denominator keeps all tokens (recipe
section 3). Shapes: B rollouts, T generated tokens of a rollout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stages.rl.aepo import EntropyController, batch_entropy, keep_positives, negative_clipping_weights
from stages.rl.batch import Batch
from stages.rl.config import RLSharedConfig


def needs_entropy_before_update(shared: RLSharedConfig) -> bool:
    """True if a pass over the rows must come before the update."""
    same_batch = shared.aepo.enabled and shared.aepo.entropy_source == "same_batch"
    return same_batch or shared.negative_clipping.level != "none"


def update_switch(
    controller: EntropyController,
    shared: RLSharedConfig,
    batch: Batch,
    entropy_BT: Tensor | None,
    previous_entropy: float | None,
) -> bool:
    """Whether this batch's negatives are masked.

    entropy_BT: this batch's, where it was measured before the update. previous_entropy: Eq. 11 of the batch before.
    """
    if not shared.aepo.enabled:
        return False
    entropy = previous_entropy
    if shared.aepo.entropy_source == "same_batch":
        assert entropy_BT is not None
        entropy = batch_entropy(entropy_BT, batch.mask_BT)
    if entropy is None or math.isnan(entropy):
        return controller.masking  # first batch; or a NaN, which the update will find, skip and count
    return controller.update(entropy)


def kept_weights(
    shared: RLSharedConfig, batch: Batch, advantages_B: Tensor, entropy_BT: Tensor | None, masking: bool
) -> Tensor:
    """Weights [B, 1] or [B, T] in {0, 1}: what overlong answers, AEPO and negative clipping leave."""
    masked_B = batch.truncated_B if shared.overlong == "mask" else torch.zeros_like(batch.truncated_B)
    kept_BT = (~masked_B).float()[:, None]
    if masking:
        kept_BT = kept_BT * keep_positives(advantages_B)[:, None]
    clipping = shared.negative_clipping
    if clipping.level != "none":
        assert entropy_BT is not None
        kept_BT = kept_BT * negative_clipping_weights(
            advantages_B, entropy_BT, batch.mask_BT, clipping.level, clipping.side, clipping.threshold
        )
    return kept_BT
