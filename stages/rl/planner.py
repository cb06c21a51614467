"""Will the largest packed row fit into memory? Predicted from shapes before the first step, so that nothing dies at step 40.

    peak = static + pending + max(row, generation)
    static      weights and gradients: there already when we ask, so not counted again
    pending     AdamW's two moments, float32, made at the first step
    row         activations of one packed row, hidden states, one chunk of logits, the head's gradient
    generation  keys and values of one group

What a layer keeps for its backward pass per token (compute type of b bytes, H hidden, A = heads x head size, K = key/value
heads x head size, I = MLP's inner size, for a mixture of experts that of the experts used):

    b * (7 H + 5 A + 2 K + 4 I)  without checkpointing;  b * H with it, and one layer in full at a time

A dense mask (CPU) adds 4 T^2 bytes per layer where the backward pass keeps it. The coefficients are counted from
transformers' Llama and Qwen3 layers and held against measured peaks (tests/stages/rl/test_planner.py: within 35 %).
The budget is shrunk to what fits, or refused where not even one answer fits, with the knobs named.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

from stages.common.config import DistributedConfig, TrainConfig
from stages.common.errors import ConfigError
from stages.rl.torch_policy import HEAD_CHUNK_TOKENS

logger = logging.getLogger(__name__)

USABLE = 0.8  # share of the free memory that is planned with: predictions were 0.84 to 1.01 of measured peaks
_GB = 2**30


@dataclass(frozen=True)
class ModelShape:
    """Sizes that decide memory. inner: MLP columns that a token passes (experts used x their size)."""

    parameters: int
    layers: int
    hidden: int
    attention: int
    key_value: int
    inner: int
    vocabulary: int

    @staticmethod
    def of_folder(folder: Path) -> ModelShape:
        """From a model folder's config and the headers of its weights; nothing is loaded."""
        parameters = 0
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        return ModelShape.of(AutoConfig.from_pretrained(str(folder), local_files_only=True), parameters)

    @staticmethod
    def of(config: Any, parameters: int) -> ModelShape:
        """From a transformers configuration and the number of weights."""
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        inner = config.intermediate_size
        if experts := getattr(config, "num_experts_per_tok", None):
            inner = experts * (getattr(config, "moe_intermediate_size", None) or inner)
        return ModelShape(
            parameters=parameters,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            attention=config.num_attention_heads * head,
            key_value=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head,
            inner=inner,
            vocabulary=config.vocab_size,
        )


@dataclass(frozen=True)
class MemoryModel:
    """How a trainer computes. bytes_per_value: of the compute type. dense_mask: attention keeps a T x T mask.

    offload: checkpoints between layers are not on the device. pending_bytes: static memory that is not there yet.
    sequence_parallel: processes that share a row.
    """

    shape: ModelShape
    bytes_per_value: int
    checkpointing: bool
    dense_mask: bool
    chunk_tokens: int
    pending_bytes: int
    offload: bool = False
    sequence_parallel: int = 1

    @staticmethod
    def of_trainer(shape: ModelShape, train: TrainConfig, device: torch.device, processes: int = 1) -> MemoryModel:
        """Of the policy that `build_policy` makes, in one of `processes`."""
        distributed = train.distributed
        return MemoryModel(
            shape=shape,
            bytes_per_value=4 if train.compute_dtype == "float32" else 2,
            checkpointing=distributed.activation_checkpointing,
            dense_mask=device.type == "cpu",
            chunk_tokens=HEAD_CHUNK_TOKENS,
            pending_bytes=_pending_bytes(shape.parameters, distributed, processes),
            offload=distributed.offload_activations and device.type == "cuda",
            sequence_parallel=distributed.sequence_parallel,
        )

    def row_bytes(self, tokens: int, scored_tokens: int) -> int:
        """Peak of forward and backward of one row, beyond what is static."""
        shape, size = self.shape, self.bytes_per_value
        local = -(-tokens // self.sequence_parallel)
        layer = size * (7 * shape.hidden + 5 * shape.attention + 2 * shape.key_value + 4 * shape.inner)
        mask = 4 * tokens * tokens if self.dense_mask else 0
        if self.checkpointing:
            kept = 0 if self.offload else shape.layers * size * shape.hidden
            activations = local * (kept + 2 * layer) + 2 * mask
        else:
            activations = shape.layers * (local * layer + mask)
        chunk = min(self.chunk_tokens, scored_tokens)
        logits = 3 * 4 * chunk * shape.vocabulary
        head_gradient = 2 * 4 * shape.vocabulary * shape.hidden
        hidden = 3 * 4 * scored_tokens * shape.hidden
        return activations + logits + head_gradient + hidden

    def generation_bytes(self, prompt_tokens: int, answers: int, answer_tokens: int) -> int:
        """Keys and values of one group in our own engine, and the logits of its rows."""
        shape = self.shape
        keys = 2 * shape.layers * shape.key_value * self.bytes_per_value * answers * (prompt_tokens + answer_tokens)
        prefill = prompt_tokens * self.bytes_per_value * (4 * shape.hidden + 3 * shape.attention + 3 * shape.inner)
        return keys + prefill + 4 * 4 * answers * shape.vocabulary

    def peak_bytes(self, row_tokens: int, prompt_tokens: int, answers: int, answer_tokens: int) -> int:
        """What training needs beyond what is allocated now, with rows of at most `row_tokens`."""
        scored = min(row_tokens, answers * answer_tokens)
        row = self.row_bytes(row_tokens, scored)
        return self.pending_bytes + max(row, self.generation_bytes(prompt_tokens, answers, answer_tokens))


def _pending_bytes(parameters: int, distributed: DistributedConfig, processes: int) -> int:
    """AdamW's moments, made at the first step; under DeepSpeed also the summed float32 gradients, per process."""
    if distributed.backend == "torch":
        return 8 * parameters
    if distributed.lora.rank or distributed.offload_optimizer:
        return 0  # adapters are small; offloaded state lies elsewhere
    moments = 8 * parameters // (processes if distributed.zero_stage >= 1 else 1)
    gradients = 4 * parameters // (processes if distributed.zero_stage >= 2 else 1)
    return moments + gradients


def plan_row_tokens(
    model: MemoryModel,
    max_row_tokens: int,
    prompt_tokens: int,
    answers: int,
    answer_tokens: int,
    trees_per_row: int | None,
    available_bytes: int,
) -> int:
    """The token budget of a row: `max_row_tokens`, or what fits into memory.

    prompt_tokens: of the longest prompt. answers: G. Raises ConfigError if not even the longest prompt with one of its
    answers fits; the message names the knobs.
    """
    smallest = prompt_tokens + answer_tokens
    largest = max_row_tokens
    if trees_per_row is not None:  # a row never gets longer than so many whole groups
        largest = min(largest, trees_per_row * (prompt_tokens + answers * answer_tokens))
    largest = max(largest, smallest)
    usable = int(available_bytes * USABLE)

    def needed(tokens: int) -> int:
        return model.peak_bytes(tokens, prompt_tokens, answers, answer_tokens)

    if needed(largest) <= usable:
        logger.info(
            "memory: %.2f GB needed for rows of %d tokens, %.2f GB free",
            needed(largest) / _GB,
            largest,
            available_bytes / _GB,
        )
        return max_row_tokens
    if needed(smallest) > usable:
        checkpointing = "" if model.checkpointing else ", set train.distributed.activation_checkpointing to true"
        raise ConfigError(
            f"training needs about {needed(smallest) / _GB:.1f} GB more for a prompt of {prompt_tokens} tokens with one "
            f"answer of {answer_tokens}, {available_bytes / _GB:.1f} GB are free. Lower the stage's max_input_tokens or "
            f"max_output_tokens{checkpointing}, take a smaller model, or train on more or larger devices."
        )
    low, high = smallest, largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= usable else (low, middle)
    logger.warning(
        "memory: rows of %d tokens would need %.1f GB and %.1f GB are free, so rows hold at most %d tokens; set "
        "rl.shared.max_row_tokens to at most that to be independent of the machine",
        largest,
        needed(largest) / _GB,
        available_bytes / _GB,
        low,
    )
    return low


def available_bytes(device: torch.device) -> int:
    """Memory that this process may still take: of the GPU, or of the machine and its control group."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    import psutil

    free = psutil.virtual_memory().available
    limit = _control_group_bytes()
    return int(free if limit is None else min(free, limit))


def _control_group_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves (control groups, version 2); None without a limit."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        files = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return int(limit) - used + int(files.get("inactive_file", 0))  # the page cache is given back
