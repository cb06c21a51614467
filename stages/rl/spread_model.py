"""The weights under training while they are spread over processes: filled from a folder, gathered for engines, saved.

Process 0 alone reads a folder and hands each tensor on; process 0 alone writes. In between, every process holds its part
of the float32 masters (zero_state.py). With adapters (lora.py) the frozen weights have no masters: what is saved is the
float32 folder that training began with, plus the adapters' products.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stages.common.errors import InputError
from stages.common.tokens import ChatTokenizer
from stages.rl import lora
from stages.rl.distributed import World
from stages.rl.model_folder import open_model, write_config, write_model
from stages.rl.selfcheck import check_forward
from stages.rl.weights_writer import WeightsWriter, in_buckets
from stages.rl.zero_state import ZeroState, gathered

BUCKET_ELEMENTS = 1 << 28  # gathered at a time for the engines: 512 MB in bfloat16


class SpreadModel:
    """module: transformers' model inside DeepSpeed. All processes must call every method, generators to their end."""

    def __init__(self, module: Any, state: ZeroState, world: World, device: torch.device) -> None:
        self._module = module
        self._state = state
        self._world = world
        self._device = device
        self._named = list(module.named_parameters())  # tied tensors once
        self._adapted = lora.adapters(module)
        self._folder: Path | None = None
        self._frozen_digest = ""

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that engines load, in the compute type, by state-dict name; tied ones once, adapters merged.

        All processes must read it to the end: weights are gathered on the way.
        """
        adapted = self._adapted
        base = [(merged, p) for name, p in self._named if (merged := lora.merged_name(name)) is not None]
        for bucket in in_buckets(base, BUCKET_ELEMENTS):
            pairs = [part for name, _ in bucket if name in adapted for part in (adapted[name].a, adapted[name].b)]
            with gathered([p for _, p in bucket] + pairs):
                for name, parameter in bucket:
                    value = parameter.detach()
                    if name in adapted:
                        layer = adapted[name]
                        delta = layer.b.detach().float() @ layer.a.detach().float() * layer.scale
                        value = (value.float() + delta).to(value.dtype)
                    yield name, value

    def masters(self) -> Iterator[tuple[str, Tensor]]:
        """Whole float32 weights that are trained, one at a time; all processes must read it to the end."""
        for name, parameter in self._named:
            if parameter.requires_grad:
                yield name, self._state.full(parameter)

    def save(self, folder: Path, tokenizer: ChatTokenizer) -> None:
        """Write a model folder: float32 safetensors, config, tokenizer."""
        self._world.meet("saving the model")
        first = self._world.rank == 0
        if self._adapted:
            self._save_merged(folder, tokenizer)
        else:
            writer = WeightsWriter(self._module, folder) if first else None
            for name, tensor in self.masters():
                if writer is not None:
                    writer.add(name, tensor)
            if writer is not None:
                writer.close()
                write_config(self._module, tokenizer, folder)
        self._world.meet("the model is saved")

    def _save_merged(self, folder: Path, tokenizer: ChatTokenizer) -> None:
        """The weights that training began with, in float32 from their folder, plus the adapters' products."""
        masters = dict(self.masters())
        if self._world.rank != 0:
            return
        assert self._folder is not None
        model = open_model(self._folder)
        weights = dict(model.named_parameters())
        names = {id(p): name for name, p in self._named}
        with torch.no_grad():
            for name, layer in self._adapted.items():
                a, b = (masters[names[id(p)]].to(weights[name].device) for p in (layer.a, layer.b))
                weights[name].add_(b @ a * layer.scale)
        write_model(model, tokenizer, folder)

    def load(self, folder: Path) -> Any:
        """Take the weights of a model folder; adapters begin anew. InputError for another model.

        Returns the whole float32 model in process 0, None in the others.
        """
        source, problem = None, None
        if self._world.rank == 0:
            try:
                source = open_model(folder)
                check_forward(source, folder)
                problem = _difference(source, self._named)
            except InputError as error:
                problem = str(error)
        if problem := self._world.from_first(problem, f"opening {folder.name}"):
            raise InputError(problem)
        values = dict(source.named_parameters()) if source is not None else {}
        for name, parameter in self._named:
            merged = lora.merged_name(name)
            if merged is None:
                self._state.write(parameter, lora.initial_value(name, _shape(parameter)).to(self._device))
                continue
            value = self._from_first(values.get(merged), _shape(parameter))
            if parameter.requires_grad:
                self._state.write(parameter, value)
            else:
                with gathered([parameter], write=True), torch.no_grad():
                    parameter.copy_(value)
        buffers = dict(source.named_buffers()) if source is not None else {}
        for name, buffer in self._module.named_buffers():
            buffer.data.copy_(self._from_first(buffers.get(name), tuple(buffer.shape), buffer.dtype))
        self._state.refresh()
        self._folder = folder
        if self._adapted:
            frozen = _digest(value for _, value in sorted(values.items()))
            self._frozen_digest = self._world.from_first(frozen, "hash of the frozen weights")
        return source

    def _from_first(self, value: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of process 0 on all processes."""
        if value is None:
            held = torch.empty(shape, dtype=dtype, device=self._device)
        else:
            held = value.detach().to(self._device, dtype).contiguous()
        if self._world.size > 1:
            dist.broadcast(held, src=0)
        return held

    def digest(self) -> str:
        """A hash of the masters' bits, whatever the number of processes; with adapters also of the frozen weights."""
        found = _digest((master for _, master in self.masters()), self._frozen_digest, self._world.rank == 0)
        text: str = self._world.from_first(found, "hash of the weights")
        return text


def _digest(tensors: Iterable[Tensor], salt: str = "", wanted: bool = True) -> str:
    """Hash of the tensors' bytes; not wanted: they are only asked for."""
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for tensor in tensors:
        if wanted:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _difference(source: Any, named: list[tuple[str, Any]]) -> str | None:
    """What tells the opened model from the one under training; None if they have the same parameters."""
    mine = {merged: _shape(p) for name, p in named if (merged := lora.merged_name(name)) is not None}
    theirs = {name: tuple(p.shape) for name, p in source.named_parameters()}
    if mine == theirs:
        return None
    odd = min(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    return f"the weights are of another model: {odd} is {theirs.get(odd)}, expected {mine.get(odd)}."
