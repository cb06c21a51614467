"""New weights for a running vLLM model, by its own layer-wise reload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def reload_weights(model_runner: Any, named_tensors: Iterator[tuple[str, torch.Tensor]]) -> set[str] | None:
    """Reload as vLLM does it, layer by layer; returns the names that were loaded."""
    import torch
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    model = model_runner.get_model()
    on_cpu = torch.device(model_runner.device).type == "cpu"
    for module in model.modules() if on_cpu else ():
        if getattr(getattr(module, "quant_method", None), "moe_kernel", None) is not None:
            module.quant_method.moe_kernel = None  # packs the experts' weights when it is made, not again later
    initialize_layerwise_reload(model)
    loaded: set[str] | None = model.load_weights(named_tensors)
    finalize_layerwise_reload(model, model_runner.model_config)
    head = getattr(model, "lm_head", None)
    if on_cpu and head is not None and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)  # a tied head holds a packed copy, which the reload skips
    return loaded


def has_experts(model: torch.nn.Module) -> bool:
    """Whether any layer is a mixture of experts in vLLM's form."""
    return any("fused_moe" in type(module).__module__ for module in model.modules())
