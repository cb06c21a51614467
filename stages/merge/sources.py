"""One tensor of several checkpoints as a source of blocks for the passes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NoReturn

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.merge.checkpoint import Checkpoint
from stages.merge.passes import BLOCK, compute_dtype

# Bytes of base and experts kept between the passes, per thread: most tensors are then read from disk once. What is larger
# is read again in every pass, usually from the page cache.
KEPT_BYTES = 128 << 20
_ALIGNED = 64


class Arena:
    """Memory for the blocks of one tensor after another; one per thread, since fresh memory costs as much as reading."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def of_size(self, size: int) -> Tensor:
        """At least `size` bytes; what was in them is gone."""
        if len(self._bytes) < size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
        return self._bytes


class FileTensors:
    """The namesakes of one tensor, read in blocks. `dtype`: of the result."""

    def __init__(
        self, name: str, base: Checkpoint, experts: Sequence[Checkpoint], dtype: torch.dtype, arena: Arena
    ) -> None:
        self.count = base[name].count
        self.dtype = dtype
        self._name = name
        self._checkpoints = [base, *experts]
        dtypes = [checkpoint[name].dtype for checkpoint in self._checkpoints]
        self.compute_dtype = compute_dtype([dtype, *dtypes])
        whole = self._laid_out(dtypes, self.count)
        self._keeps = whole[-1] <= KEPT_BYTES
        self._starts = whole if self._keeps else self._laid_out(dtypes, min(BLOCK, self.count))
        self._memory = arena.of_size(self._starts[-1])
        self._there: dict[tuple[int, int], list[Tensor]] = {}

    @staticmethod
    def _laid_out(dtypes: Sequence[torch.dtype], count: int) -> list[int]:
        """Where each checkpoint's part of the memory begins, and the end."""
        sizes = (-(-count * dtype.itemsize // _ALIGNED) * _ALIGNED for dtype in dtypes)
        return [0, *accumulate(sizes)]

    def read(self, block: slice) -> tuple[Tensor, list[Tensor]]:
        """The tensors are valid until the next call, or for good if the whole tensor is kept."""
        key = (block.start, block.stop)
        tensors = self._there.get(key)
        if tensors is None:
            tensors = [self._read_into(start, number, block) for number, start in enumerate(self._starts[:-1])]
            if self._keeps:
                self._there[key] = tensors
        return tensors[0], tensors[1:]

    def _read_into(self, start: int, number: int, block: slice) -> Tensor:
        checkpoint = self._checkpoints[number]
        if block.stop - block.start > BLOCK:  # a whole tensor, for the reference's sums
            return checkpoint.read(self._name, block)
        offset = start + (block.start * checkpoint[self._name].dtype.itemsize if self._keeps else 0)
        return checkpoint.read(self._name, block, into=self._memory[offset:])

    def equal_block(self, block: slice) -> Tensor:
        """A block of an integer tensor, which must be the same everywhere. Raises InputError where it is not."""
        base, experts = self.read(block)
        for checkpoint, tensor in zip(self._checkpoints[1:], experts, strict=True):
            if not torch.equal(tensor, base):
                raise InputError(
                    f"{checkpoint.folder}: integer tensor {self._name} differs from that of {self._checkpoints[0].folder}."
                )
        return base

    def not_finite(self) -> NoReturn:
        for checkpoint in self._checkpoints:
            bad = 0
            for start in range(0, self.count, BLOCK):
                block = slice(start, min(start + BLOCK, self.count))
                bad += int((~torch.isfinite(checkpoint.read(self._name, block))).sum())
            if bad:
                raise InputError(
                    f"{checkpoint.folder}: tensor {self._name} holds {bad} values that are NaN or infinite. "
                    "The training that made it diverged: lower its learning rate and run it again."
                )
        raise InputError(
            f"tensor {self._name}: the differences between {self._checkpoints[0].folder} and the experts are too large "
            "to be squared. The training diverged."
        )
