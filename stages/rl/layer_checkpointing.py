"""Activation checkpointing of decoder layers: a layer keeps its input and is computed again in the backward pass.

transformers' layers checkpoint themselves where `gradient_checkpointing` and `training` are set. Both are set on the layers
alone and for the block alone, so that dropout stays off (its modules stay in eval mode) and generation, which needs the
layers' cache, meets them unchanged. With `offload` the inputs wait in the CPU's memory, pinned where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def layers_checkpointed(model: Any, enabled: bool, offload: bool = False) -> Iterator[None]:
    """Inside the block, forward passes with gradient keep one hidden state per decoder layer."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if enabled else []
    for layer in layers:
        layer._gradient_checkpointing_func = _keep_on_cpu if offload else partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


def _keep_on_cpu(*inputs: Any) -> Any:
    """`checkpoint`, whose own saving of a layer's input is the only one that these hooks meet."""
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return checkpoint(*inputs, use_reentrant=False)
