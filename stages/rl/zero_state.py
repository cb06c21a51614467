"""What DeepSpeed's ZeRO keeps of a model on this process: float32 master weights and their optimizer state, in pieces.

One set of functions over four layouts (DeepSpeed 0.19):

    stage 0      the parameters themselves, whole, float32
    stage 1, 2   one flat float32 tensor per parameter group: this process's part of all parameters in a row
    stage 1 in bfloat16   the same under other names (BF16_Optimizer)
    stage 3      several flat tensors; each parameter is cut into equal parts, one per process

`refresh` makes the compute weights those of the masters again, after something was written into the masters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stages.common.errors import InputError

_STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, in torch


class ZeroState:
    """This process's masters. engine: of deepspeed.initialize. stage: of ZeRO."""

    def __init__(self, engine: Any, stage: int) -> None:
        self._optimizer = engine.optimizer
        self._base_optimizer = engine.basic_optimizer
        self._stage = stage

    @property
    def masters(self) -> list[Tensor]:
        """The float32 tensors that the optimizer steps, in a fixed order."""
        if self._stage == 0:
            return [p for group in self._base_optimizer.param_groups for p in group["params"]]
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        if hasattr(self._optimizer, "fp32_groups_flat_partition"):
            return list(self._optimizer.fp32_groups_flat_partition)
        return list(self._optimizer.single_partition_of_fp32_groups)

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self._base_optimizer.param_groups:
            group["lr"] = learning_rate

    def full(self, parameter: Any) -> Tensor:
        """The whole float32 value of a trained parameter. All processes must call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        if self._stage == 0:
            return parameter.detach()
        value: Tensor | None = safe_get_full_fp32_param(parameter)
        assert value is not None, "a frozen parameter has no master"
        return value.detach()

    def full_gradient(self, parameter: Any) -> Tensor:
        """The whole float32 gradient, after backward and before the step. All processes must call it."""
        from deepspeed.utils import safe_get_full_grad

        value: Tensor = safe_get_full_grad(parameter)
        return value.detach().float()

    def write(self, parameter: Any, value: Tensor) -> None:
        """Put this process's part of `value` (whole, float32) into the masters. Call `refresh` afterwards."""
        flat = value.detach().reshape(-1)
        if self._stage == 0:
            parameter.data.copy_(value)
        elif self._stage == 3:
            group, offset, length = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
            start = length * self._optimizer._get_param_partition_rank(parameter)
            part = flat[start : start + length]  # the last process's part may be shorter than its room
            self._optimizer.fp32_partitioned_groups_flat[group].data[offset : offset + len(part)].copy_(part)
        elif parameter._hp_mapping is not None:
            address = parameter._hp_mapping.lp_fragment_address
            parameter._hp_mapping.hp_fragment.data.copy_(flat[address.start : address.start + address.numel])

    def tensors(self, layout: Tensor) -> dict[str, Tensor]:
        """This process's masters, and AdamW's moments and step counts. layout: what they can be restored into."""
        tensors = {"layout": layout}
        state = self._base_optimizer.state
        for number, master in enumerate(self.masters):
            tensors[f"master/{number}"] = master.detach()
            for key in _STATE_KEYS:
                if key in state.get(master, {}):  # absent before the first update
                    tensors[f"{key}/{number}"] = state[master][key]
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], layout: Tensor) -> None:
        """Take what `tensors` has given. InputError if it is of another model or layout."""
        masters = self.masters
        theirs = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith("master/")}
        mine = {f"master/{number}": tuple(master.shape) for number, master in enumerate(masters)}
        if mine != theirs or "layout" not in tensors or not torch.equal(tensors["layout"], layout):
            raise InputError("the checkpoint is of another model, ZeRO stage or number of processes.")
        state = self._base_optimizer.state
        for number, master in enumerate(masters):
            master.data.copy_(tensors[f"master/{number}"])
            state.pop(master, None)
            if f"step/{number}" in tensors:
                state[master] = {key: tensors[f"{key}/{number}"].to(master.device, copy=True) for key in _STATE_KEYS}
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute weights from masters. All processes must call it."""
        if self._stage in (1, 2):
            self._optimizer.update_lp_params()
        elif self._stage == 3:
            self._optimizer._partition_all_parameters()
            for group in range(len(self._optimizer.fp16_groups)):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
            self._optimizer._post_step(set())


@contextmanager
def gathered(parameters: list[Any], *, write: bool = False) -> Iterator[None]:
    """The whole compute weights inside the block (ZeRO-3; else they are whole anyway). All processes must enter.

    write: what process 0 writes into them is what all have afterwards.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(parameters, modifier_rank=0 if write else None):
        yield
