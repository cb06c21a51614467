"""Writes a model folder tensor by tensor: float32 safetensors in shards, so that no process ever holds a whole model.

What it writes for a model of one shard is byte for byte what transformers' `save_pretrained` writes: transformers turns
some parameters back into the names and shapes of the published format (experts are one tensor in memory and many on
disk), here one decoder layer at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from stages.common.storage import write_json

SHARD_BYTES = 5 * 10**9
_LAYER = re.compile(r"(?:^|.*\.)layers\.\d+\.")


class WeightsWriter:
    """Add tensors in the model's order, then `close`. The folder must not hold another model's shards."""

    def __init__(self, model: Any, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._model = model
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._layer = ""
        self._batch: dict[str, Tensor] = {}  # one decoder layer, names of the model
        self._shard: dict[str, Tensor] = {}  # names on disk
        self._shards: list[list[str]] = []
        self._bytes = 0
        self._total_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, tensor: Tensor) -> None:
        """One float32 parameter of the model."""
        found = _LAYER.match(name)
        layer = found.group(0) if found else name
        if layer != self._layer:
            self._convert()
            self._layer = layer
        self._batch[name] = tensor.detach().cpu()

    def close(self) -> None:
        """Write what is left, and the index if there are several shards."""
        self._convert()
        self._write_shard()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards, start=1):
            final = f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
            (self._folder / _partial(number)).rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        if count > 1:
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            write_json(self._folder / "model.safetensors.index.json", index)

    def _convert(self) -> None:
        if not self._batch:
            return
        for name, tensor in revert_weight_conversion(self._model, self._batch).items():
            size = tensor.numel() * tensor.element_size()
            if self._shard and self._bytes + size > self._shard_bytes:
                self._write_shard()
            self._shard[name] = tensor.contiguous()
            self._bytes += size
            self._total_bytes += size
        self._batch = {}

    def _write_shard(self) -> None:
        if not self._shard:
            return
        self._shards.append(list(self._shard))
        save_file(self._shard, self._folder / _partial(len(self._shards)), metadata={"format": "pt"})
        self._shard, self._bytes = {}, 0


def _partial(number: int) -> str:
    return f"model-{number:05d}.safetensors.partial"


def in_buckets(named: list[tuple[str, Any]], elements: int) -> Iterator[list[tuple[str, Any]]]:
    """Named parameters in order, in lists of at most `elements` numbers (or a single larger parameter)."""
    bucket: list[tuple[str, Any]] = []
    held = 0
    for name, parameter in named:
        size = int(getattr(parameter, "ds_numel", parameter.numel()))
        if bucket and held + size > elements:
            yield bucket
            bucket, held = [], 0
        bucket.append((name, parameter))
        held += size
    if bucket:
        yield bucket
