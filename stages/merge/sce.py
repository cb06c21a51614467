"""SCE merge of one tensor: select, calculate, erase (Wan et al. 2024; recipe section 5).

With base B and experts T_i, d_i = T_i - B:
    select      topk < 1: keep the elements whose variance over the experts is largest, set the rest to zero
    calculate   one weight per expert and tensor: w_i = mean(d_i^2), normalised to sum 1
    erase       majority sign m = sign of sum_i d_i (a tie counts as +); E_i = 1 where sign(d_i) = m, else 0
    out         B + sum_i(w_i E_i d_i) / sum_i(w_i E_i)

Two weightings. `reference` follows mergekit bit for bit, absolute thresholds of 1e-6 included. Those turn the weights
of RL experts silently uniform (their mean squares are 1e-8 to 1e-10), so the default `scale_free` has no threshold:
its moments are summed in float64, and it falls back to the base only where nothing is left to add. Its arithmetic is in
float64 too, but for tensors of 16 bits in float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.merge.passes import Chunk, Figures, Mask, MemoryTensors, Source, merge_pass, moments, one_torch_thread
from stages.merge.selection import threshold_mask, variance

Weighting = Literal["scale_free", "reference"]

_REFERENCE_FLOOR = 1e-6  # mergekit's absolute threshold
# Elements up to which the reference's sums and order are computed on the whole tensor, as there; see `_reference`.
WHOLE = 1 << 23


def sce_merge(
    base: Tensor, experts: Sequence[Tensor], select_topk: float = 1.0, weighting: Weighting = "scale_free"
) -> Tensor:
    """Merge one tensor of any shape; returns the base's shape and dtype.

    select_topk: fraction in (0, 1] of the elements with non-zero variance that are kept.
    Raises InputError if there is no expert, if shapes differ, if a value is not finite, or if select_topk is out of range.
    Warns if one expert meets select_topk < 1: its variance is zero everywhere, so the result is the base.
    """
    if len(experts) == 1 and select_topk < 1:
        warnings.warn("one expert with select_topk < 1: the merge returns the base", stacklevel=2)
    return sce_merge_with_report(base, experts, select_topk, weighting)[0]


def sce_merge_with_report(
    base: Tensor, experts: Sequence[Tensor], select_topk: float = 1.0, weighting: Weighting = "scale_free"
) -> tuple[Tensor, Figures]:
    """`sce_merge` and what it did. Same errors, no warning."""
    check_arguments(len(experts), select_topk)
    for number, expert in enumerate(experts, start=1):
        if expert.shape != base.shape:
            raise InputError(f"expert {number} has shape {tuple(expert.shape)}, the base {tuple(base.shape)}")
    out_N = torch.empty(base.numel(), dtype=base.dtype)

    def write(start: int, values_N: Tensor) -> None:
        out_N[start : start + len(values_N)] = values_N

    source = MemoryTensors(base, experts)
    with one_torch_thread():
        figures = sce_blocks(source, len(experts), select_topk, weighting, write, whole=base.numel())
    return out_N.reshape(base.shape), figures


def check_arguments(experts: int, select_topk: float) -> None:
    """InputError if there is nothing to merge or the fraction is none."""
    if not experts:
        raise InputError("a merge needs at least one expert")
    if not 0 < select_topk <= 1:
        raise InputError(f"select_topk must lie in (0, 1], not {select_topk}")


def sce_blocks(
    source: Source,
    experts: int,
    select_topk: float,
    weighting: Weighting,
    write: Callable[[int, Tensor], None],
    whole: int = WHOLE,
) -> Figures:
    """SCE of a tensor that is read and written in blocks; memory does not grow with it (but see `whole`).

    whole: elements up to which `reference` reads the whole tensor, to repeat mergekit's order of summation; above, its
    weights come from float64 sums, which differ from mergekit's float32 sums by their rounding.
    """
    if source.count == 0:
        return Figures((0.0,) * experts, (0.0,) * experts, 0.0, None, (None,) * experts)
    if weighting == "reference":
        return _reference(source, experts, select_topk, write, whole)
    mask = None
    if select_topk < 1:
        mask = threshold_mask(source, select_topk, torch.float64, float32_product=False)
    known = moments(source, experts, mask)
    total = math.fsum(known.squares)
    # S = 0: no expert differs from the base; zero weights leave the base.
    weights = [square / total if total > 0 else 0.0 for square in known.squares]

    def rule(chunk: Chunk) -> tuple[Tensor, float, float]:
        return _erase_and_add(chunk, weights)

    return merge_pass(source, known, weights, rule, write, source.compute_dtype, mask)


def _erase_and_add(chunk: Chunk, weights: Sequence[float]) -> tuple[Tensor, float, float]:
    """(merged, non-zero differences, erased ones) of a chunk.

    Written as the weighted mean of the experts that have the majority's sign, which is the same as base plus weighted mean
    of their differences but returns a single or unanimous expert without rounding. In floating point all through: torch's
    boolean operations take five to ten times as long as its arithmetic.
    """
    count, dtype = len(chunk.base_N), chunk.base_N.dtype
    sign_N, numerator_N, denominator_N, own_sign_N, voted_N = (
        chunk.scratch(name, count, dtype) for name in ("sign", "numerator", "denominator", "own_sign", "voted")
    )
    sign_N.copy_(chunk.deltas[0])
    for delta_N in chunk.deltas[1:]:
        sign_N += delta_N
    sign_N.sign_().add_(0.5).sign_()  # a tie counts as +
    numerator_N.zero_()
    denominator_N.zero_()
    nonzero = kept = 0.0
    for expert_N, delta_N, weight in zip(chunk.experts, chunk.deltas, weights, strict=True):
        torch.sign(delta_N, out=own_sign_N)
        torch.mul(own_sign_N, sign_N, out=voted_N).clamp_(min=0.0)  # 1 or 0
        nonzero += float(torch.dot(own_sign_N, own_sign_N))
        kept += float(torch.dot(voted_N, voted_N))
        denominator_N.add_(voted_N, alpha=weight)
        numerator_N.add_(voted_N.mul_(expert_N), alpha=weight)
    # Where nobody is left, the base: 0 / tiny + base.
    empty_N = torch.sign(denominator_N, out=own_sign_N).neg_().add_(1.0)
    numerator_N.div_(denominator_N.clamp_(min=torch.finfo(dtype).tiny))
    return numerator_N.addcmul_(empty_N, chunk.base_N), nonzero, nonzero - kept


def _reference(
    source: Source, experts: int, select_topk: float, write: Callable[[int, Tensor], None], whole: int
) -> Figures:
    """The arithmetic of mergekit: float32 (float64 for a float64 base), absolute thresholds, its order of summation."""
    dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
    mask = None
    if select_topk < 1:
        if source.count <= whole:
            mask = _whole_mask(source, select_topk, dtype)
        else:
            mask = threshold_mask(source, select_topk, dtype, float32_product=True)
    known = moments(source, experts, mask)
    if source.count <= whole:
        weights_K = _whole_weights(source, mask, dtype)
    else:
        weights_K = _normalised(torch.tensor(known.squares, dtype=torch.float64).div(source.count).to(dtype))

    def rule(chunk: Chunk) -> tuple[Tensor, float, float]:
        deltas_KN = torch.stack(chunk.deltas)
        majority_N = torch.where(deltas_KN.sum(dim=0) >= 0, 1.0, -1.0).to(dtype)
        keep_KN = deltas_KN.sign() == majority_N  # sign(0) = 0 never matches
        erased_weights_KN = weights_K[:, None] * keep_KN
        numerator_N = (deltas_KN * erased_weights_KN).sum(dim=0)
        change_N = numerator_N / erased_weights_KN.sum(dim=0).clamp(min=_REFERENCE_FLOOR)
        nonzero = float(torch.count_nonzero(deltas_KN))
        return chunk.base_N + change_N, nonzero, nonzero - float(keep_KN.sum())

    return merge_pass(source, known, weights_K.tolist(), rule, write, dtype, mask)


def _whole_deltas(source: Source, dtype: torch.dtype) -> Tensor:
    """[K, N] differences of the whole tensor."""
    base_N, experts = source.read(slice(0, source.count))
    base_N = base_N.to(dtype)
    return torch.stack([expert_N.to(dtype) - base_N for expert_N in experts])


def _whole_mask(source: Source, topk: float, dtype: torch.dtype) -> Mask:
    """torch.topk over the whole tensor, as mergekit does: which of equal variances are kept is torch's affair."""
    variance_N = variance(list(_whole_deltas(source, dtype)))
    kept = int(torch.count_nonzero(variance_N) * topk)  # a float32 product, as there
    mask_N = torch.zeros(source.count, dtype=torch.bool)
    mask_N[torch.topk(variance_N, k=kept).indices] = True
    position = 0

    def mask(deltas: list[Tensor]) -> Tensor:
        nonlocal position
        part_N = mask_N[position : position + len(deltas[0])]
        position = (position + len(deltas[0])) % source.count  # the end of a pass: the next begins anew
        return part_N

    return mask


def _whole_weights(source: Source, mask: Mask | None, dtype: torch.dtype) -> Tensor:
    """[K] weights from sums over the whole tensor."""
    deltas_KN = _whole_deltas(source, dtype)
    if mask is not None:
        deltas_KN = deltas_KN * mask(list(deltas_KN))
    return _normalised(torch.mean(deltas_KN.square(), dim=1))


def _normalised(weights_K: Tensor) -> Tensor:
    """The reference's rule: uniform where the mean squares sum to less than 1e-6."""
    total = float(torch.sum(weights_K))
    if abs(total) < _REFERENCE_FLOOR:
        return torch.ones_like(weights_K) / len(weights_K)
    return weights_K / total
