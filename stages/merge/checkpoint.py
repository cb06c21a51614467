"""Hugging Face checkpoints read a block at a time: safetensors, one file or shards with an index.

The headers are read here rather than by the library, because its reader maps whole files: mapped pages count as resident
memory, and its tensors cannot be read in parts. A file is 8 bytes of header length, a JSON header, raw bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.storage import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DTYPE_CODES = {
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
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie."""

    path: Path
    offset: int  # bytes from the start of the file
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class Checkpoint:
    """The tensors of a model folder by name. Holds no open file, so threads may share it.

    Raises InputError if there are no safetensors, a shard is missing, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places = _places(folder)

    @property
    def names(self) -> list[str]:
        """Tensor names, in the order of the files, then of the names."""
        return list(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    def forget(self, name: str) -> None:
        """Leave a tensor out (the second name of a tied weight)."""
        del self._places[name]

    def read(self, name: str, block: slice | None = None, into: Tensor | None = None) -> Tensor:
        """Elements of a tensor, flat, in the order of the file; all of them without a block.

        into: bytes (uint8) that take them, at least as many as they need.

        Raises InputError if the file became shorter since it was opened.
        """
        place = self._places[name]
        start, stop = (0, place.count) if block is None else (block.start, block.stop)
        size = (stop - start) * place.dtype.itemsize
        values = torch.empty(size, dtype=torch.uint8) if into is None else into[:size]
        if not size:
            return values.view(place.dtype)
        left = memoryview(values.numpy().data)
        offset = place.offset + start * place.dtype.itemsize
        with place.path.open("rb", buffering=0) as file:
            while left:
                got = os.preadv(file.fileno(), [left], offset)
                if got == 0:
                    raise InputError(f"{place.path} became shorter while it was read. Make the model again.")
                left, offset = left[got:], offset + got
        return values.view(place.dtype)


def _places(folder: Path) -> dict[str, Place]:
    """Every tensor, in file order."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the folder of a saved model.")
    index, single = folder / INDEX_FILE, folder / SINGLE_FILE
    if index.is_file():
        return _indexed(folder, read_json(index))
    if single.is_file():
        return dict(sorted(_header(single).items()))
    raise InputError(f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}: only safetensors can be merged.")


def _indexed(folder: Path, index: Any) -> dict[str, Place]:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / INDEX_FILE} has no weight_map. Make the model again.")
    files = sorted(set(weight_map.values()))
    if outside := [file for file in files if Path(file).name != file]:
        raise InputError(f"{folder / INDEX_FILE} names {outside[0]}, which is no file of this folder.")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise InputError(f"{folder} lacks {', '.join(missing)}, which {INDEX_FILE} names. Make the model again.")
    headers = {file: _header(folder / file) for file in files}
    places = {}
    for name, file in sorted(weight_map.items(), key=lambda item: (item[1], item[0])):
        if name not in headers[file]:
            raise InputError(
                f"{folder / file} holds no tensor {name}, although {INDEX_FILE} says so. Make the model again."
            )
        places[name] = headers[file][name]
    return places


def _header(path: Path) -> dict[str, Place]:
    """The tensors of one file; every offset is checked against its length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        try:
            header = json.loads(file.read(length) if length <= size - 8 else b"")
            header.pop("__metadata__", None)
            return {name: _place(path, 8 + length, size, value) for name, value in header.items()}
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} cannot be read as safetensors ({error}). Make the model again.") from None


def _place(path: Path, data: int, size: int, value: dict[str, Any]) -> Place:
    if value["dtype"] not in _DTYPES:
        raise InputError(f"{path}: a tensor has type {value['dtype']}, which cannot be merged. Save it as bfloat16.")
    begin, end = value["data_offsets"]
    place = Place(path, data + begin, tuple(value["shape"]), _DTYPES[value["dtype"]])
    if end - begin != place.count * place.dtype.itemsize or begin < 0:
        raise ValueError("offsets and shapes of its header disagree")
    if data + end > size:
        raise ValueError(f"cut off: {size:,} bytes of at least {data + end:,}")
    return place
