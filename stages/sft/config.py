"""Parameters of the SFT warm-up."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Section, TrainConfig


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
    checkpoint_every_steps: int = Field(ge=1, description="Optimizer steps between checkpoints.")


class SftStage(Section):
    """Everything that the sft stage depends on."""

    sft: SftConfig
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")
