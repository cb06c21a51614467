"""The model inside DeepSpeed: built empty on every process, filled from the one process that reads the folder.

Each process would otherwise hold the whole float32 model while it opens. Under ZeRO-3 a parameter is cut into its parts
as soon as it is made. DeepSpeed would also make float32 masters from bfloat16 weights, which erases what RL has learned;
filling the masters from the file afterwards avoids that.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from stages.common.config import DistributedConfig
from stages.common.errors import ConfigError, InputError
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.policy import OptimizerSettings
from stages.rl.ulysses import SequenceGroup, scored_hidden

SUPPORTED = ("0", "19")  # of DeepSpeed: zero_state.py reads its optimizers' parts


class RowScorer(nn.Module):
    """What DeepSpeed wraps: decoder and LM head in one forward pass over one row, or this process's shard of it.

    The LM head keeps its place as a module, so that ZeRO-3 gathers its weight for it, but is called with the targets and
    returns log-probabilities and entropies, never logits.
    """

    def __init__(self, model: Any, head_chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        head = model.get_output_embeddings()

        def score(hidden_NC: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            return token_logprobs_and_entropy(hidden_NC, head.weight, targets_N, temperature, head_chunk_tokens)

        head.forward = score

    def forward(
        self,
        inputs: dict[str, Any],
        hidden_index_N: Tensor,
        targets_N: Tensor,
        temperature: float,
        raw: bool,
        sequence: SequenceGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(log-probabilities, entropies, log-probabilities at temperature 1 if `raw`) of the tokens scored here."""
        hidden_TC = self.model.base_model(**inputs, use_cache=False).last_hidden_state[0]
        if sequence is None:
            hidden_NC = hidden_TC[hidden_index_N.to(hidden_TC.device)]
        else:
            hidden_NC = scored_hidden(hidden_TC, hidden_index_N, sequence)
        head = self.model.get_output_embeddings()
        logprobs_N, entropy_N = head(hidden_NC, targets_N, temperature)
        raw_N = None
        if raw:
            with torch.no_grad():
                raw_N = head(hidden_NC.detach(), targets_N, 1.0)[0]
        return logprobs_N, entropy_N, raw_N


def engine_settings(
    distributed: DistributedConfig, compute_dtype: str, optimizer: OptimizerSettings, on_gpu: bool
) -> dict[str, Any]:
    """DeepSpeed's configuration. Gradients are summed over micro-batches and processes in float32."""
    zero: dict[str, Any] = {"stage": distributed.zero_stage, "contiguous_gradients": True, "overlap_comm": on_gpu}
    if distributed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if distributed.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the number of micro-batches differs from step to step: set by hand
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's own fused AdamW also runs on the CPU and needs no compiler
        "zero_allow_untested_optimizer": True,
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
    }
    if compute_dtype == "bfloat16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
    return settings


def empty_model(folder: Path, settings: dict[str, Any], device: torch.device) -> Any:
    """The folder's architecture with weights that hold anything; under ZeRO-3 already spread over the processes.

    Raises InputError if transformers does not know it.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no model that transformers can open: {error}") from None
    config.output_router_logits = False  # the router's auxiliary loss stays off
    with _spread(settings), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    if settings["zero_optimization"]["stage"] == 3:
        _keep_experts_together(model)
    return model.eval()


@contextmanager
def _spread(settings: dict[str, Any]) -> Iterator[None]:
    if settings["zero_optimization"]["stage"] != 3:
        with nullcontext():
            yield
        return
    from deepspeed.runtime.zero import Init

    with Init(config_dict_or_path=settings):
        yield


def _keep_experts_together(model: Any) -> None:
    """Let ZeRO-3 gather a mixture of experts as one: which experts run differs between the processes."""
    from deepspeed.utils import set_z3_leaf_modules

    classes = {type(module) for module in model.modules() if hasattr(module, "experts") and hasattr(module, "gate")}
    if classes:
        set_z3_leaf_modules(model, list(classes))


def open_deepspeed() -> Any:
    """The package, without its shared-memory collectives for CPUs: compiled at first use, and where one process dies the
    others would wait for it in a busy loop that nothing ends. ConfigError for a release whose insides we do not know.
    """
    import deepspeed

    if tuple(deepspeed.__version__.split(".")[:2]) != SUPPORTED:
        raise ConfigError(
            f"DeepSpeed {deepspeed.__version__} is installed, {'.'.join(SUPPORTED)}.x is supported. Install it with "
            "pip install -e '.[train]' -c constraints.txt, or set train.distributed.backend to torch."
        )
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="`torch.distributed.*is deprecated", category=FutureWarning)  # its calls
    return deepspeed
