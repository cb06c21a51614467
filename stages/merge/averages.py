"""Two plain merges through the same passes, to compare SCE with.

linear           sum_i(w_i T_i) / sum_i(w_i): a weighted mean of the experts (Wortsman et al. 2022); the base counts for nothing
task_arithmetic  B + sum_i(w_i d_i), d_i = T_i - B (Ilharco et al. 2023)

Sums are in float64 and rounded once, so they are within one unit in the last place of any float32 implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stages.merge.passes import Chunk, Figures, Source, merge_pass, moments


def linear_blocks(source: Source, weights: Sequence[float], write: Callable[[int, Tensor], None]) -> Figures:
    """Weighted mean; the weights may have any positive sum."""
    total = math.fsum(weights)
    return task_arithmetic_blocks(source, [weight / total for weight in weights], write)


def task_arithmetic_blocks(source: Source, weights: Sequence[float], write: Callable[[int, Tensor], None]) -> Figures:
    """Base plus weighted differences."""

    def rule(chunk: Chunk) -> tuple[Tensor, float, float]:
        merged_N = chunk.scratch("merged", len(chunk.base_N), torch.float64).copy_(chunk.base_N)
        for delta_N, weight in zip(chunk.deltas, weights, strict=True):
            merged_N.add_(delta_N, alpha=weight)
        return merged_N, 0.0, 0.0

    return merge_pass(source, moments(source, len(weights)), weights, rule, write, torch.float64)
