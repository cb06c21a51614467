"""SCE merge of one tensor: select, calculate, erase (Wan et al. 2024; recipe section 5).

With base B and experts T_i, d_i = T_i - B:
    select      topk < 1: keep the elements whose variance over the experts is largest, set the rest to zero
    calculate   one weight per expert and tensor: w_i = mean(d_i^2), normalised to sum 1
    erase       majority sign m = sign of sum_i d_i (a tie counts as +); E_i = 1 where sign(d_i) = m, else 0
    out         B + sum_i(w_i E_i d_i) / sum_i(w_i E_i)

Two weightings. `reference` follows mergekit bit for bit, absolute thresholds of 1e-6 included. Those turn the weights
of RL experts silently uniform (their mean squares are 1e-8 to 1e-10), so the default `scale_free` has no threshold:
it works in float64 and falls back to the base only where nothing is left to add.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from stages.common.errors import InputError

Weighting = Literal["scale_free", "reference"]

_BLOCK = 1 << 22  # elements merged at once: bounds the temporaries, the arithmetic is element by element
_ROW = 4096  # elements summed by one thread: the sums do not depend on the number of threads
_REFERENCE_FLOOR = 1e-6  # mergekit's absolute threshold


@dataclass(frozen=True)
class SceReport:
    """What the merge of one tensor did.

    weights: w_i, one per expert (zeros if no expert differs from the base).
    delta_rms: root mean square of each d_i after Select.
    erased_fraction: share of the experts' non-zero elements that lost the sign vote.
    cosine: mean cosine between the d_i of two experts; None with one expert or a zero difference.
    """

    weights: tuple[float, ...]
    delta_rms: tuple[float, ...]
    erased_fraction: float
    cosine: float | None


def sce_merge(
    base: Tensor, experts: Sequence[Tensor], select_topk: float = 1.0, weighting: Weighting = "scale_free"
) -> Tensor:
    """Merge one tensor of any shape; returns the base's shape and dtype.

    select_topk: fraction in (0, 1] of the elements with non-zero variance that are kept.
    Raises InputError if there is no expert, if shapes differ, or if select_topk is out of range.
    Warns if one expert meets select_topk < 1: its variance is zero everywhere, so the result is the base.
    """
    if len(experts) == 1 and select_topk < 1:
        warnings.warn("one expert with select_topk < 1: the merge returns the base", stacklevel=2)
    return sce_merge_with_report(base, experts, select_topk, weighting)[0]


def sce_merge_with_report(
    base: Tensor, experts: Sequence[Tensor], select_topk: float = 1.0, weighting: Weighting = "scale_free"
) -> tuple[Tensor, SceReport]:
    """`sce_merge` and what it did. Same errors, no warning."""
    if not experts:
        raise InputError("a merge needs at least one expert")
    if not 0 < select_topk <= 1:
        raise InputError(f"select_topk must lie in (0, 1], not {select_topk}")
    for number, expert in enumerate(experts, start=1):
        if expert.shape != base.shape:
            raise InputError(f"expert {number} has shape {tuple(expert.shape)}, the base {tuple(base.shape)}")
    if base.numel() == 0:
        return base.clone(), SceReport((0.0,) * len(experts), (0.0,) * len(experts), 0.0, None)
    work_dtype = torch.float64 if weighting == "scale_free" or base.dtype == torch.float64 else torch.float32
    flat_base = base.detach().reshape(-1)
    flat_experts = [expert.detach().reshape(-1) for expert in experts]
    mask_N = None
    if select_topk < 1:
        mask_N = _select(flat_base, flat_experts, select_topk, weighting, work_dtype)

    squares, dots = _moments(flat_base, flat_experts, mask_N)
    if weighting == "reference":
        weights_K = _reference_weights(flat_base, flat_experts, mask_N, work_dtype)
    else:
        total = math.fsum(squares)
        # S = 0: no expert differs from the base; zero weights leave the base.
        weights_K = torch.tensor([square / total if total > 0 else 0.0 for square in squares], dtype=torch.float64)

    out_N = torch.empty_like(flat_base)
    nonzero = erased = 0
    floor = _REFERENCE_FLOOR if weighting == "reference" else 0.0
    for block in _blocks(flat_base.numel()):
        deltas_KN = _deltas(flat_base, flat_experts, mask_N, block, work_dtype)
        merged_N, block_nonzero, block_erased = _merge_block(
            flat_base[block].to(work_dtype), deltas_KN, weights_K[:, None], floor
        )
        out_N[block] = merged_N.to(base.dtype)
        nonzero += block_nonzero
        erased += block_erased
    report = SceReport(
        weights=tuple(float(weight) for weight in weights_K),
        delta_rms=tuple(math.sqrt(square / base.numel()) for square in squares),
        erased_fraction=erased / nonzero if nonzero else 0.0,
        cosine=_mean_cosine(squares, dots),
    )
    return out_N.reshape(base.shape), report


def _merge_block(base_N: Tensor, deltas_KN: Tensor, weights_K1: Tensor, floor: float) -> tuple[Tensor, int, int]:
    """Erase and add for some elements: (merged, non-zero differences, erased ones)."""
    majority_N = torch.where(deltas_KN.sum(dim=0) >= 0, 1.0, -1.0).to(deltas_KN.dtype)
    keep_KN = deltas_KN.sign() == majority_N  # sign(0) = 0 never matches
    erased_weights_KN = weights_K1 * keep_KN.to(deltas_KN.dtype)
    numerator_N = (deltas_KN * erased_weights_KN).sum(dim=0)
    denominator_N = erased_weights_KN.sum(dim=0)
    if floor > 0:
        change_N = numerator_N / denominator_N.clamp(min=floor)
    else:
        empty_N = denominator_N == 0
        change_N = torch.where(empty_N, 0.0, numerator_N / denominator_N.masked_fill(empty_N, 1.0))
    nonzero = int(torch.count_nonzero(deltas_KN))
    return base_N + change_N, nonzero, nonzero - int(keep_KN.sum())


def _select(base_N: Tensor, experts: Sequence[Tensor], topk: float, weighting: str, dtype: torch.dtype) -> Tensor:
    """Bool [N]: True on the floor(topk * number of non-zero variances) elements of largest variance."""
    variance_N = torch.empty(base_N.numel(), dtype=dtype)
    for block in _blocks(base_N.numel()):
        # Population variance (divided by the number of experts), as in the reference.
        variance_N[block] = torch.var(_deltas(base_N, experts, None, block, dtype), dim=0, unbiased=False)
    nonzero = torch.count_nonzero(variance_N)
    mask_N = torch.zeros(base_N.numel(), dtype=torch.bool)
    if weighting == "reference":
        kept = int(nonzero * topk)  # a float32 product, as there
        order_N = torch.topk(variance_N, k=kept).indices
    else:
        kept = math.floor(int(nonzero) * topk + 1e-9)  # 0.3 of 10 is 3, whatever binary fractions say
        order_N = torch.sort(variance_N, descending=True, stable=True).indices[:kept]  # ties: lowest index first
    mask_N[order_N] = True
    return mask_N


def _reference_weights(base_N: Tensor, experts: Sequence[Tensor], mask_N: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[K] weights by the reference's rule: uniform where the mean squares sum to less than 1e-6."""
    deltas_KN = _deltas(base_N, experts, mask_N, slice(0, base_N.numel()), dtype)
    weights_K = torch.mean(deltas_KN**2, dim=1)
    total = float(weights_K.sum())
    if abs(total) < _REFERENCE_FLOOR:
        return torch.ones_like(weights_K) / len(experts)
    return weights_K / total


def _moments(
    base_N: Tensor, experts: Sequence[Tensor], mask_N: Tensor | None
) -> tuple[list[float], dict[tuple[int, int], float]]:
    """Sum of squares of each difference and the dot product of each pair, in float64."""
    squares: list[list[float]] = [[] for _ in experts]
    dots: dict[tuple[int, int], list[float]] = {pair: [] for pair in combinations(range(len(experts)), 2)}
    for block in _blocks(base_N.numel()):
        deltas_KN = _deltas(base_N, experts, mask_N, block, torch.float64)
        for index, delta_N in enumerate(deltas_KN):
            squares[index] += _row_sums(delta_N * delta_N)
        for (i, j), parts in dots.items():
            parts += _row_sums(deltas_KN[i] * deltas_KN[j])
    return [math.fsum(parts) for parts in squares], {pair: math.fsum(parts) for pair, parts in dots.items()}


def _row_sums(values_N: Tensor) -> list[float]:
    """Partial sums over rows of fixed length, so that no reduction is split between threads."""
    whole = values_N.numel() // _ROW * _ROW
    sums: list[float] = values_N[:whole].view(-1, _ROW).sum(dim=1).tolist()
    return [*sums, float(values_N[whole:].sum())]


def _mean_cosine(squares: Sequence[float], dots: dict[tuple[int, int], float]) -> float | None:
    cosines = [
        dot / math.sqrt(squares[i] * squares[j]) for (i, j), dot in dots.items() if squares[i] > 0 and squares[j] > 0
    ]
    return math.fsum(cosines) / len(cosines) if cosines else None


def _deltas(
    base_N: Tensor, experts: Sequence[Tensor], mask_N: Tensor | None, block: slice, dtype: torch.dtype
) -> Tensor:
    """[K, block] differences from the base, zero where not selected."""
    base_block = base_N[block].to(dtype)
    deltas_KN = torch.stack([expert[block].to(dtype) - base_block for expert in experts])
    return deltas_KN if mask_N is None else deltas_KN * mask_N[block]


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
