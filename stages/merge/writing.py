"""Writing a checkpoint whose tensors are made block by block, in any order: files and index as transformers writes them."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from stages.common.storage import write_text
from stages.merge.checkpoint import DTYPE_CODES, INDEX_FILE, SINGLE_FILE

Spec = tuple[tuple[int, ...], torch.dtype]  # shape and type


@dataclass(frozen=True)
class Shard:
    """One file of the output and its tensors."""

    file: str
    specs: dict[str, Spec]


def plan_shards(specs: Mapping[str, Spec], max_shard_bytes: int) -> list[Shard]:
    """Which tensor goes into which file, by huggingface_hub's rule: in order, never over the limit.

    A tensor above the limit gets a file of its own, numbered where it was met.
    """
    groups: list[list[str]] = []
    current: list[str] = []
    filled = 0
    for name, spec in specs.items():
        size = size_bytes(spec)
        if size > max_shard_bytes:
            groups.append([name])
            continue
        if filled + size > max_shard_bytes:
            groups.append(current)
            current, filled = [], 0
        current.append(name)
        filled += size
    if current:
        groups.append(current)
    if len(groups) == 1:
        return [Shard(SINGLE_FILE, {name: specs[name] for name in groups[0]})]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", {name: specs[name] for name in group})
        for number, group in enumerate(groups, start=1)
    ]


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """The index of several shards, byte for byte as transformers writes it; none for a single file."""
    if len(shards) == 1:
        return
    specs = {name: spec for shard in shards for name, spec in shard.specs.items()}
    index = {
        "metadata": {
            "total_parameters": sum(math.prod(shape) for shape, _ in specs.values()),
            "total_size": sum(size_bytes(spec) for spec in specs.values()),
        },
        "weight_map": {name: shard.file for shard in shards for name in shard.specs},
    }
    write_text(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")


class ShardWriter:
    """One safetensors file, laid out byte for byte as the library does; its space is taken when it is opened.

    Used as a context: written under a `.partial` name, renamed when the block ends without an error. Threads may write.
    Raises OSError (no space left) at once rather than after an hour.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._path = folder / shard.file
        self._partial = folder / (shard.file + ".partial")
        self._offsets: dict[str, int] = {}
        self._specs = shard.specs
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        # The library sorts by width of the type, widest first, then by name.
        for name in sorted(shard.specs, key=lambda name: (-shard.specs[name][1].itemsize, name)):
            shape, dtype = shard.specs[name]
            begin, end = end, end + size_bytes(shard.specs[name])
            self._offsets[name] = begin
            header[name] = {"dtype": DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        encoded += b" " * (-len(encoded) % 8)
        self._head = struct.pack("<Q", len(encoded)) + encoded
        self._size = len(self._head) + end

    def __enter__(self) -> ShardWriter:
        self._file = self._partial.open("wb", buffering=0)
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(self._file.fileno(), 0, self._size)
        self._put(memoryview(self._head), 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                os.fsync(self._file.fileno())
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, name: str, start: int, values_N: Tensor) -> None:
        """Elements of a tensor, from the flat position `start` on."""
        _, dtype = self._specs[name]
        assert values_N.dtype == dtype, name
        if len(values_N):
            bytes_ = memoryview(values_N.contiguous().view(torch.uint8).numpy().data)
            self._put(bytes_, len(self._head) + self._offsets[name] + start * dtype.itemsize)

    def _put(self, left: memoryview, offset: int) -> None:
        while left:
            written = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[written:], offset + written


def size_bytes(spec: Spec) -> int:
    """Bytes of a tensor in the file."""
    shape, dtype = spec
    return math.prod(shape) * dtype.itemsize
