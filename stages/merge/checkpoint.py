"""Hugging Face checkpoints read and written one tensor at a time (safetensors, one file or shards with an index).

The writer lays the file out by hand (8 bytes of header length, a JSON header, raw bytes), because the library's own
writer wants all tensors of a shard in memory at once.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DTYPE_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _DTYPE_CODES.items()}


class Checkpoint:
    """The tensors of a model folder by name; reads one at a time.

    Raises InputError if there are no safetensors, a shard is missing, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _weight_map(folder)
        self._open_path: Path | None = None
        self._open_file: Any = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for name in self._files:
            part = self._reader(name).get_slice(name)
            code = str(part.get_dtype())
            if code not in _DTYPES:
                raise InputError(f"{self._files[name]}: tensor {name} has type {code}, which cannot be merged.")
            self.shapes[name] = tuple(part.get_shape())
            self.dtypes[name] = _DTYPES[code]

    @property
    def names(self) -> list[str]:
        """Tensor names, in the order of the files."""
        return list(self._files)

    def forget(self, name: str) -> None:
        """Leave a tensor out (the second name of a tied weight)."""
        del self._files[name], self.shapes[name], self.dtypes[name]

    def read(self, name: str) -> Tensor:
        """The tensor of that name."""
        tensor: Tensor = self._reader(name).get_tensor(name)
        return tensor

    def _reader(self, name: str) -> safe_open:
        # One file stays open: names come in file order, so each file is opened once per pass.
        path = self._files[name]
        if path != self._open_path:
            try:
                self._open_file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} cannot be read as safetensors ({error}). Make the model again.") from None
            self._open_path = path
        keys = set(self._open_file.keys())
        if name not in keys:
            raise InputError(f"{path} holds no tensor {name}, although {INDEX_FILE} says so. Make the model again.")
        return self._open_file


def _weight_map(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, in file order."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the folder of a saved model.")
    index, single = folder / INDEX_FILE, folder / SINGLE_FILE
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{index} has no weight_map. Make the model again.")
        missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
        if missing:
            raise InputError(f"{folder} lacks {', '.join(missing)}, which {INDEX_FILE} names. Make the model again.")
        return {name: folder / file for name, file in sorted(weight_map.items(), key=lambda item: (item[1], item[0]))}
    if single.is_file():
        try:
            with safe_open(single, framework="pt") as file:
                return dict.fromkeys(sorted(file.keys()), single)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{single} cannot be read as safetensors ({error}). Make the model again.") from None
    raise InputError(f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}: only safetensors can be merged.")


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    make: Callable[[str], Tensor],
    max_shard_bytes: int,
) -> list[Path]:
    """Write tensors as transformers does: one file, or shards of at most `max_shard_bytes` and an index.

    Args:
        folder: exists.
        tensors: name -> (shape, dtype) of everything that will be written.
        make: called once per name, in the order written; the only tensor in memory is the one it returns.
        max_shard_bytes: a single tensor above it gets a shard of its own.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, (shape, dtype) in tensors.items():
        size = _size_bytes(shape, dtype)
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        _write_file(folder / SINGLE_FILE, {name: tensors[name] for name in shards[0]}, make)
        return [folder / SINGLE_FILE]
    paths = [folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for path, names in zip(paths, shards, strict=True):
        _write_file(path, {name: tensors[name] for name in names}, make)
    write_json(
        folder / INDEX_FILE,
        {
            "metadata": {"total_size": sum(_size_bytes(*spec) for spec in tensors.values())},
            "weight_map": {name: path.name for path, names in zip(paths, shards, strict=True) for name in names},
        },
    )
    return paths


def _write_file(
    path: Path, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]], make: Callable[[str], Tensor]
) -> None:
    """One safetensors file, byte for byte as the library writes it, one tensor in memory at a time."""
    # The library sorts by width of the type, widest first, then by name.
    names = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        shape, dtype = tensors[name]
        end = offset + _size_bytes(shape, dtype)
        header[name] = {"dtype": _DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for name in names:
            _write_tensor(file, name, make(name), tensors[name])
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _write_tensor(file: BinaryIO, name: str, tensor: Tensor, spec: tuple[Sequence[int], torch.dtype]) -> None:
    shape, dtype = spec
    assert tuple(tensor.shape) == tuple(shape), name
    assert tensor.dtype == dtype, name
    if tensor.numel():
        file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _size_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    count = 1
    for length in shape:
        count *= length
    return count * dtype.itemsize
