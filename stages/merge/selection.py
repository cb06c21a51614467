"""Select of SCE: the fraction of elements whose variance over the experts is largest, without sorting the tensor.

The k-th largest variance is found digit by digit (16 of the 64 bits of a float at a time: non-negative floats are ordered
like their bits), so memory is four histograms whatever the size of the tensor; the price is four passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from stages.merge.passes import BLOCK, Mask, Source, chunks

_DIGITS = (48, 32, 16, 0)  # shifts, most significant first
_VALUES = 1 << 16


def variance(deltas: list[Tensor]) -> Tensor:
    """Population variance over the experts (divided by their number), as in the reference; [N]."""
    return torch.var(torch.stack(deltas), dim=0, unbiased=False)


def threshold_mask(source: Source, topk: float, dtype: torch.dtype, *, float32_product: bool) -> Mask:
    """A mask that keeps floor(topk * number of non-zero variances) elements; of equal ones those that come first.

    float32_product: round the number as the reference does.
    """
    kept, bits, ties = _threshold(source, topk, dtype, float32_product=float32_product)
    position = 0
    left = ties

    def mask(deltas: list[Tensor]) -> Tensor:
        nonlocal position, left
        if position == 0:
            left = ties
        position = (position + len(deltas[0])) % source.count  # the end of a pass: the next begins anew
        if kept == 0:
            return torch.zeros_like(deltas[0], dtype=torch.bool)
        bits_N = _bits(variance(deltas))
        mask_N = bits_N > bits
        if left:
            tied = (bits_N == bits).nonzero()[:left, 0]
            left -= len(tied)
            mask_N[tied] = True
        return mask_N

    return mask


def _threshold(source: Source, topk: float, dtype: torch.dtype, *, float32_product: bool) -> tuple[int, int, int]:
    """(elements kept, bits of the smallest variance among them, how many of exactly that variance are kept)."""
    kept = left = prefix = 0
    for shift in _DIGITS:
        histogram = torch.zeros(_VALUES, dtype=torch.int64)
        nonzero = 0
        for bits_N in _all_bits(source, dtype):
            nonzero += int(torch.count_nonzero(bits_N))
            higher = bits_N >> (shift + 16) if shift < 48 else torch.zeros_like(bits_N)
            digits = (bits_N[higher == prefix] >> shift) & (_VALUES - 1)
            histogram += torch.bincount(digits, minlength=_VALUES)
        if shift == _DIGITS[0]:
            # 0.3 of 10 is 3, whatever binary fractions say; the reference multiplies in float32.
            kept = int(torch.tensor(nonzero) * topk) if float32_product else math.floor(nonzero * topk + 1e-9)
            left = kept
            if kept == 0:
                return 0, 0, 0
        # From the largest digit down: the one in which the k-th element lies.
        above = histogram.flip(0).cumsum(0)
        place = int((above >= left).nonzero()[0])
        left -= int(above[place - 1]) if place else 0
        prefix = (prefix << 16) | (_VALUES - 1 - place)
    return kept, prefix, left


def _all_bits(source: Source, dtype: torch.dtype) -> Iterator[Tensor]:
    """Variances of all elements as bits, some chunks at a time."""
    gathered: list[Tensor] = []
    for start, chunk in chunks(source, dtype):
        gathered.append(_bits(variance(chunk.deltas)))
        if (start + len(chunk.base_N)) % BLOCK == 0 or start + len(chunk.base_N) == source.count:
            yield torch.cat(gathered)
            gathered = []


def _bits(variance_N: Tensor) -> Tensor:
    # `+ 0.0` turns a negative zero into zero, whose bits would be the largest
    return (variance_N.to(torch.float64) + 0.0).view(torch.int64)
