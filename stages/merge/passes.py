"""Passes over one tensor of base and experts, a block at a time: moments of the differences, then the merge.

A source gives blocks of the flat tensors from memory or from files. Arithmetic is element by element in chunks, in buffers that
are used again (fresh ones would cost more than the arithmetic), by one thread, so that results do not depend on how many
there are. Shapes: N elements of a chunk or block, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from stages.common.errors import InputError

BLOCK = 1 << 20  # elements read and written at once, a multiple of CHUNK
# Elements computed at once. Chunks of 1 << 15 stay in the second cache, but three threads on two cores then wait for the
# interpreter between two operations: 9.0 ns a parameter against 3.8.
CHUNK = 1 << 18


@dataclass(frozen=True)
class Figures:
    """What the merge of one tensor did.

    weights: w_i, one per expert (sce: zeros if no expert differs from the base).
    delta_rms: root mean square of each d_i = T_i - B (sce: after Select).
    erased_fraction: share of the experts' non-zero elements that lost the sign vote; 0 where there is no vote.
    cosine: mean cosine between the d_i of two experts; None with one expert or a zero difference.
    expert_cosines: cosine between the merged difference (out - B) and each d_i; None where one of them is zero.
    """

    weights: tuple[float, ...]
    delta_rms: tuple[float, ...]
    erased_fraction: float
    cosine: float | None
    expert_cosines: tuple[float | None, ...]


class Source(Protocol):
    """One tensor of every checkpoint, flat."""

    count: int
    dtype: torch.dtype  # of the result
    compute_dtype: torch.dtype  # of the arithmetic

    def read(self, block: slice) -> tuple[Tensor, list[Tensor]]:
        """Base and experts, in their own types."""
        ...

    def not_finite(self) -> NoReturn:
        """Raise the InputError that says which of them holds a value that is not finite."""
        ...


class MemoryTensors:
    """Tensors that are in memory as a source."""

    def __init__(self, base: Tensor, experts: Sequence[Tensor]) -> None:
        self._base = base.detach().reshape(-1)
        self._experts = [expert.detach().reshape(-1) for expert in experts]
        self.count = base.numel()
        self.dtype = base.dtype
        self.compute_dtype = compute_dtype([base.dtype, *(expert.dtype for expert in experts)])

    def read(self, block: slice) -> tuple[Tensor, list[Tensor]]:
        return self._base[block], [expert[block] for expert in self._experts]

    def not_finite(self) -> NoReturn:
        for name, tensor in [("the base", self._base), *((f"expert {i}", t) for i, t in enumerate(self._experts, 1))]:
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{name} holds values that are NaN or infinite")
        raise InputError("the differences between experts and base are too large to be squared")


class Scratch:
    """Buffers of one pass, by name: [N] views whose contents are undefined."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int, torch.dtype], Tensor] = {}

    def __call__(self, name: str, count: int, dtype: torch.dtype, number: int = 0) -> Tensor:
        key = (name, number, dtype)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(CHUNK, dtype=dtype)
        return self._buffers[key][:count]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Sums in torch depend on its number of threads, and the threads of a merge share out tensors, not operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Chunk:
    """Some elements in the type that is computed in. `deltas`: experts minus base, zero where Select dropped them.

    All are valid until the next chunk.
    """

    base_N: Tensor
    experts: list[Tensor]  # K x [N]
    deltas: list[Tensor]  # K x [N]
    scratch: Scratch


Mask = Callable[[list[Tensor]], Tensor]  # differences of consecutive chunks -> bool [N]
Rule = Callable[[Chunk], tuple[Tensor, float, float]]  # -> (merged_N, non-zero differences, erased ones)


def chunks(source: Source, dtype: torch.dtype, mask: Mask | None = None) -> Iterator[tuple[int, Chunk]]:
    """(position of the first element, chunk) in order; differences that Select dropped are zero."""
    scratch = Scratch()
    for start in range(0, source.count, BLOCK):
        base, experts = source.read(slice(start, min(start + BLOCK, source.count)))
        for offset in range(0, len(base), CHUNK):
            part = slice(offset, offset + CHUNK)
            base_N = scratch("base", len(base[part]), dtype).copy_(base[part])
            experts_N, deltas = [], []
            for number, expert in enumerate(experts):
                experts_N.append(scratch("expert", len(base_N), dtype, number).copy_(expert[part]))
                deltas.append(torch.sub(experts_N[-1], base_N, out=scratch("delta", len(base_N), dtype, number)))
            if mask is not None:
                kept_N = mask(deltas)
                deltas = [delta_N * kept_N for delta_N in deltas]
            yield start + offset, Chunk(base_N, experts_N, deltas, scratch)


def compute_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The type of the element-wise arithmetic: float32 if all tensors have 16 bits, which is then exact enough; else float64."""
    return torch.float32 if all(dtype.itemsize <= 2 for dtype in dtypes) else torch.float64


@dataclass(frozen=True)
class Moments:
    """Sums over all elements, in float64: squares [K] of the differences, products of each pair."""

    squares: tuple[float, ...]
    products: dict[tuple[int, int], float]

    @property
    def mean_cosine(self) -> float | None:
        """Mean over the pairs of experts that both differ from the base."""
        cosines = [
            product / math.sqrt(self.squares[i] * self.squares[j])
            for (i, j), product in self.products.items()
            if self.squares[i] > 0 and self.squares[j] > 0
        ]
        return math.fsum(cosines) / len(cosines) if cosines else None


def moments(source: Source, experts: int, mask: Mask | None = None) -> Moments:
    """One pass. Raises InputError (through the source) if any value is NaN or infinite."""
    squares: list[list[float]] = [[] for _ in range(experts)]
    products: dict[tuple[int, int], list[float]] = {pair: [] for pair in combinations(range(experts), 2)}
    for _, chunk in chunks(source, source.compute_dtype, mask):
        deltas = chunk.deltas
        if source.compute_dtype != torch.float64:
            deltas = [
                chunk.scratch("wide", len(delta_N), torch.float64, number).copy_(delta_N)
                for number, delta_N in enumerate(deltas)
            ]
        for parts, delta_N in zip(squares, deltas, strict=True):
            parts.append(float(torch.dot(delta_N, delta_N)))
        for (i, j), parts in products.items():
            parts.append(float(torch.dot(deltas[i], deltas[j])))
    # A sum of squares is finite only if every element is; checked here, so that it costs no pass of its own.
    sums = [sum(parts) for parts in squares]
    if not all(math.isfinite(value) for value in sums):
        source.not_finite()
    return Moments(
        tuple(math.fsum(parts) for parts in squares), {pair: math.fsum(parts) for pair, parts in products.items()}
    )


def merge_pass(
    source: Source,
    known: Moments,
    weights: Sequence[float],
    rule: Rule,
    write: Callable[[int, Tensor], None],
    dtype: torch.dtype,
    mask: Mask | None = None,
) -> Figures:
    """Apply a rule to every element and hand the results to `write(position, values)` in the source's type.

    The values are valid during the call of `write`.
    """
    nonzero = erased = 0.0
    squares: list[float] = []
    along: list[list[float]] = [[] for _ in weights]
    for start, chunk in chunks(source, dtype, mask):
        merged_N, chunk_nonzero, chunk_erased = rule(chunk)
        out_N = chunk.scratch("out", len(merged_N), source.dtype).copy_(merged_N)
        write(start, out_N)
        nonzero += chunk_nonzero
        erased += chunk_erased
        change_N = merged_N.sub_(chunk.base_N)
        squares.append(float(torch.dot(change_N, change_N)))
        for parts, delta_N in zip(along, chunk.deltas, strict=True):
            parts.append(float(torch.dot(change_N, delta_N)))
    moved = math.fsum(squares)
    count = max(source.count, 1)
    return Figures(
        weights=tuple(weights),
        delta_rms=tuple(math.sqrt(square / count) for square in known.squares),
        erased_fraction=erased / nonzero if nonzero else 0.0,
        cosine=known.mean_cosine,
        expert_cosines=tuple(
            math.fsum(parts) / math.sqrt(moved * square) if moved > 0 and square > 0 else None
            for parts, square in zip(along, known.squares, strict=True)
        ),
    )
