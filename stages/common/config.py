"""Base class of every configuration section, and the section that all model stages share."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A frozen section of params.yaml: unknown keys are refused and no field has a default.

    params.yaml is complete and the only truth, so a default in code would be a second one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class LoraConfig(Section):
    """Low-rank adapters instead of full training. What is saved and generated with is the merged model."""

    rank: int = Field(ge=0, le=1024, description="Rank of the adapters; 0: off, every weight is trained.")
    alpha: int = Field(ge=1, description="The adapters' product is scaled by alpha / rank.")
    target_modules: list[str] = Field(min_length=1, description="Last names of the linear layers that get an adapter.")


class DistributedConfig(Section):
    """On how many processes, and how spread over them, a model is trained (sft, rl and memory_rl stages)."""

    backend: Literal["torch", "deepspeed"] = Field(
        description="torch: one process, one device. deepspeed: one process per GPU, on one or many machines."
    )
    processes: int = Field(
        ge=0, le=4096, description="Processes of a deepspeed stage on this machine; 0: one per visible GPU, at least 1."
    )
    zero_stage: int = Field(
        ge=0,
        le=3,
        description="What DeepSpeed spreads over the processes: 1 optimizer, 2 also gradients, 3 also weights; 0 nothing.",
    )
    offload_optimizer: bool = Field(
        description="Keep master weights and optimizer in the CPU's memory (zero_stage >= 1)."
    )
    offload_parameters: bool = Field(description="Keep the spread weights in the CPU's memory (zero_stage 3).")
    activation_checkpointing: bool = Field(
        description="Compute each layer again in the backward pass instead of keeping its activations."
    )
    offload_activations: bool = Field(
        description="Keep the checkpoints between layers in the CPU's memory (activation_checkpointing)."
    )
    sequence_parallel: int = Field(
        ge=1, le=256, description="Processes that share one row of tokens (Ulysses); must divide processes and heads."
    )
    lora: LoraConfig

    @model_validator(mode="after")
    def _consistent(self) -> DistributedConfig:
        if self.backend == "torch":
            wanted = {
                "processes": self.processes > 1,
                "offload_optimizer": self.offload_optimizer,
                "offload_parameters": self.offload_parameters,
                "sequence_parallel": self.sequence_parallel > 1,
                "lora.rank": self.lora.rank > 0,
            }
            if odd := [name for name, asked in wanted.items() if asked]:
                raise ValueError(
                    f"{', '.join(odd)} need backend deepspeed; the torch backend is one process on one device"
                )
            return self
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        if self.offload_activations and not self.activation_checkpointing:
            raise ValueError("offload_activations needs activation_checkpointing")
        if self.processes and self.processes % self.sequence_parallel:
            raise ValueError(f"sequence_parallel {self.sequence_parallel} does not divide processes {self.processes}")
        return self


class EngineConfig(Section):
    """What generates text: rollouts, verification, evaluation."""

    kind: Literal["transformers", "vllm", "remote"] = Field(
        description="transformers: any machine, weights shared with the trainer. vllm: GPUs of the trainer's processes. "
        "remote: a vLLM server, its address in LONGFUSE_ENGINE_URL."
    )
    gpu_memory_utilization: float = Field(
        gt=0,
        lt=1,
        description="Share of a GPU's memory that vllm may take while it generates; the trainer needs the rest.",
    )
    tensor_parallel_size: int = Field(ge=1, le=64, description="Processes (GPUs) that share one copy of vllm's model.")
    max_num_batched_tokens: int | None = Field(
        ge=256, description="Prompt tokens that vllm computes in one step; null: its own choice."
    )
    enforce_eager: bool = Field(description="Run vllm without CUDA graphs: starts faster, generates slower.")
    sleep_level: Literal[0, 1, 2] = Field(
        description="What vllm gives back while the trainer works: 2 weights and KV cache, 1 the same with the weights kept "
        "in the CPU's memory, 0 nothing."
    )
    timeout_seconds: float = Field(
        gt=0, le=86400, description="Longest start, step, sleep or weight load before an engine counts as hung."
    )

    @model_validator(mode="after")
    def _consistent(self) -> EngineConfig:
        if self.kind != "vllm" and self.tensor_parallel_size > 1:
            raise ValueError("tensor_parallel_size above 1 needs kind vllm (a remote server has its own)")
        return self


class TrainConfig(Section):
    """What every stage that runs a model shares."""

    cpu_threads: int = Field(
        ge=1, le=256, description="Threads of torch on CPU; part of identity, since sums depend on it."
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        description="Type of forward and backward passes; master weights, optimizer and saved weights are float32."
    )
    distributed: DistributedConfig
    engine: EngineConfig

    @model_validator(mode="after")
    def _float32_gradients(self) -> TrainConfig:
        distributed = self.distributed
        if distributed.backend == "deepspeed" and distributed.zero_stage == 0 and self.compute_dtype == "bfloat16":
            raise ValueError(
                "distributed.zero_stage 0 needs compute_dtype float32: DeepSpeed would sum bfloat16 gradients in bfloat16 "
                "there. Set zero_stage to 1, 2 or 3"
            )
        return self


class EndpointConfig(Section):
    """An OpenAI-compatible chat endpoint. Without `model` nothing is ever asked.

    Model and address are identity: another one gives other results. The key itself stands nowhere in the project.
    """

    model: str | None = Field(description="Name of the model as the endpoint knows it; null: no endpoint is used.")
    base_url: str | None = Field(
        description="Address of the API, as `https://host/v1`; `/chat/completions` is added to it."
    )
    api_key_env: str | None = Field(
        description="NAME of the environment variable that holds the key, never the key; null: none is sent."
    )
    timeout_seconds: float = Field(
        gt=0, le=3600, description="Longest wait for one reply; a later one counts as failed."
    )
    budget_tokens: int | None = Field(
        ge=0, description="Tokens (prompts and replies) that one stage may use; null: no limit."
    )
    budget_usd: float | None = Field(ge=0, description="Money that one stage may spend; null: no limit.")
    usd_per_million_input_tokens: float = Field(ge=0, description="Price of prompts.")
    usd_per_million_output_tokens: float = Field(ge=0, description="Price of replies.")

    @model_validator(mode="after")
    def _usable(self) -> EndpointConfig:
        # Messages hold no value: what was pasted in the wrong place may be a key.
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env must be the NAME of an environment variable (capitals, digits, _), never the key itself"
            )
        if self.model is None:
            return self
        if not self.model.strip() or self.base_url is None:
            raise ValueError("model is set, so base_url must be set as well (or set model to null: no endpoint)")
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
            raise ValueError("base_url must be an http or https address such as https://host/v1, without query")
        if address.username is not None or address.password is not None:
            raise ValueError("base_url must hold no user or password; name the key's variable in api_key_env")
        if self.budget_usd is not None and not self.usd_per_million_input_tokens + self.usd_per_million_output_tokens:
            raise ValueError("budget_usd is set, so the prices per million tokens must be set as well")
        return self


NO_ENDPOINT = EndpointConfig(
    model=None,
    base_url=None,
    api_key_env=None,
    timeout_seconds=60,
    budget_tokens=None,
    budget_usd=None,
    usd_per_million_input_tokens=0,
    usd_per_million_output_tokens=0,
)
