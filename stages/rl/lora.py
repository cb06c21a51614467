"""Low-rank adapters through peft: what is trained is B and A, what leaves the trainer is W + alpha / rank * B A.

The adapters are injected into the model's own linear layers. Names of merged weights are those of the model without
adapters, so neither engines nor later stages know of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stages.common.config import LoraConfig
from stages.common.errors import ConfigError
from stages.common.seeds import derive_seed

_BASE = ".base_layer."
_ADAPTERS = (".lora_A.", ".lora_B.")
_NAME = "default"  # peft's name of the only adapter


@dataclass(frozen=True)
class Adapter:
    """One adapted layer. name: of the merged weight. weight, a, b: parameters, W [O, I], A [R, I], B [O, R]."""

    name: str
    weight: Any
    a: Any
    b: Any
    scale: float


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Inject adapters and freeze everything else. ConfigError for target modules that the model lacks."""
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        lora_dropout=0.0,
        bias="none",
    )
    try:
        inject_adapter_in_model(settings, model, adapter_name=_NAME)
    except ValueError as error:
        raise ConfigError(
            f"train.distributed.lora.target_modules {list(config.target_modules)} do not fit the model: {error}"
        ) from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in _ADAPTERS))


def initial_value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """What an adapter's parameter starts with, float32: B zero, A uniform as peft's, from a stream of its own."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(derive_seed("lora", name))
    bound = shape[1] ** -0.5  # kaiming_uniform with a = sqrt(5)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def adapters(model: Any) -> dict[str, Adapter]:
    """The adapted layers by the name of their merged weight; empty without adapters."""
    found = {}
    for name, module in model.named_modules():
        if _NAME in getattr(module, "lora_A", {}):
            merged = f"{name}.weight"
            found[merged] = Adapter(
                merged,
                module.base_layer.weight,
                module.lora_A[_NAME].weight,
                module.lora_B[_NAME].weight,
                float(module.scaling[_NAME]),
            )
    return found


def merged_name(name: str) -> str | None:
    """The name of a parameter in the model without adapters; None for an adapter's own."""
    if any(part in name for part in _ADAPTERS):
        return None
    return name.replace(_BASE, ".")
