"""Parameters of the SFT warm-up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import NO_ENDPOINT, EndpointConfig, Section, TrainConfig
from stages.memory.config import MemoryAgentConfig


class SftConfig(Section):
    """Supervised warm-up on grounded answers."""

    enabled: bool = Field(description="Off: the base model is passed through (a pointer, no copy), as in the paper.")
    steps: int = Field(ge=1, description="Optimizer steps.")
    batch_size: int = Field(ge=1, description="Samples per step.")
    learning_rate: float = Field(
        gt=0, le=1, description="Peak learning rate, reached after warmup_steps, then linear decay to zero."
    )
    warmup_steps: int = Field(ge=0, description="Steps of linear warm-up.")
    max_tokens: int = Field(ge=32, description="Longest prompt plus answer; longer samples are left out and counted.")
    trace: Literal["none", "proof", "teacher"] = Field(
        description="Reasoning before the answer, in <think> tags: none; written from the sample's proof; or from "
        "endpoints.teacher, where its answer is right (else from the proof)."
    )
    teacher_attempts: int = Field(ge=1, le=64, description="Replies asked of the teacher until one is right.")
    teacher_max_tokens: int = Field(ge=1, description="Longest reply of the teacher.")
    teacher_temperature: float = Field(ge=0, le=2, description="The teacher's sampling temperature.")
    agent_samples: int = Field(
        ge=0,
        description="Samples that are also taught as the memory agent reads them, with the memory of an exact reader: turns that add to it, as "
        "many that leave it as it is, and the answer; 0: none.",
    )
    agent: MemoryAgentConfig = Field(
        description="Lengths and prompt form of these turns: as in memory_rl.agent, or shorter where sft.max_tokens is."
    )
    adam_beta1: float = Field(ge=0, lt=1, description="AdamW.")
    adam_beta2: float = Field(ge=0, lt=1, description="AdamW.")
    adam_epsilon: float = Field(gt=0, description="AdamW.")
    weight_decay: float = Field(ge=0, description="AdamW, decoupled.")
    max_grad_norm: float = Field(gt=0, description="Global gradient norm is clipped here.")
    checkpoint_every_steps: int = Field(ge=1, description="Optimizer steps between checkpoints.")
    keep_checkpoints: int = Field(ge=1, description="Newest checkpoints that stay on disk while the stage runs.")
    max_skipped_steps: int = Field(
        ge=0, description="Updates with a NaN loss or gradient that may be skipped before the stage fails."
    )


class SftStage(Section):
    """Everything that the sft stage depends on."""

    sft: SftConfig
    teacher: EndpointConfig = NO_ENDPOINT  # the pipeline always names it
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")

    @model_validator(mode="after")
    def _teacher_is_named(self) -> SftStage:
        if self.sft.enabled and self.sft.trace == "teacher" and self.teacher.model is None:
            raise ValueError("sft.trace is teacher, so endpoints.teacher.model must be set (or set sft.trace to proof)")
        return self
