"""Parameters of the RL stages (paper section 4, recipe section 3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import NO_ENDPOINT, EndpointConfig, Section, TrainConfig
from stages.memory.config import MemoryAgentConfig


class AepoConfig(Section):
    """Adaptive entropy-controlled policy optimisation (paper section 4.4)."""

    enabled: bool = Field(description="Off: negatives are never masked and no entropy pass is made.")
    entropy_low: float = Field(ge=0, description="Nats; strictly below, masking of negatives ends.")
    entropy_high: float = Field(ge=0, description="Nats; strictly above, masking of negatives begins.")
    entropy_source: Literal["same_batch", "previous_batch"] = Field(
        description="same_batch: a no-grad pass before the update; previous_batch: free, a departure from the paper."
    )

    @model_validator(mode="after")
    def _ordered(self) -> AepoConfig:
        if self.entropy_low > self.entropy_high:
            raise ValueError("entropy_low must not exceed entropy_high")
        return self


class NegativeClippingConfig(Section):
    """Negative gradient clipping by entropy (Eq. 8-9); the paper's ablation, off with AEPO."""

    level: Literal["none", "token", "sequence"] = Field(
        description="What is clipped: nothing, tokens or whole sequences with A < 0."
    )
    side: Literal["high", "low"] = Field(description="Clip entropies above or below the threshold.")
    threshold: float = Field(ge=0, description="Nats.")


class RLSharedConfig(Section):
    """What all RL stages share."""

    group_size: int = Field(ge=2, description="G, rollouts per prompt.")
    batch_size: int = Field(ge=1, description="Prompts per update, over all task types.")
    temperature: float = Field(gt=0, le=2, description="Sampling temperature; also that of the trained log-probs.")
    top_p: float = Field(gt=0, le=1, description="Nucleus while sampling; trained log-probs use the full vocabulary.")
    std_scope: Literal["task", "group", "batch", "none"] = Field(
        description="Whose std divides the advantage (Eq. 7: task)."
    )
    denominator: Literal["group", "batch"] = Field(
        description="Token count under the loss: of the group (Eq. 4) or of the batch."
    )
    aepo: AepoConfig
    negative_clipping: NegativeClippingConfig
    overlong: Literal["mask", "penalise", "keep"] = Field(
        description="Answers that ran into the limit: weight 0, DAPO's penalty, or nothing."
    )
    overlong_buffer_tokens: int = Field(ge=0, description="Length of the linear penalty's slope before the limit.")
    dynamic_sampling: bool = Field(description="Replace groups whose rewards are all equal by others of the same task.")
    max_refills: int = Field(ge=0, description="Rounds of replacement at most.")
    adam_beta1: float = Field(ge=0, lt=1, description="AdamW.")
    adam_beta2: float = Field(ge=0, lt=1, description="AdamW.")
    adam_epsilon: float = Field(gt=0, description="AdamW.")
    weight_decay: float = Field(ge=0, description="AdamW, decoupled.")
    max_grad_norm: float = Field(gt=0, description="Global gradient norm is clipped here.")
    max_row_tokens: int = Field(ge=64, description="Token budget of one packed prefix-tree row; bounds memory.")
    overlong_prompts: Literal["drop", "truncate_middle"] = Field(
        description="Prompts over max_input_tokens: left out and counted, or their documents cut in the middle."
    )
    checkpoint_every_steps: int = Field(ge=1, description="Updates between checkpoints.")
    keep_checkpoints: int = Field(ge=1, description="Newest checkpoints that stay on disk while a stage runs.")
    eval_every_steps: int = Field(
        ge=0, description="Updates between evaluations on held-out prompts; 0: none while training."
    )
    eval_prompts: int = Field(ge=1, description="Held-out prompts per evaluation, spread over the task types.")
    max_skipped_steps: int = Field(
        ge=0, description="Updates with a NaN loss or gradient that may be skipped before the stage fails."
    )


class RLStageParams(Section):
    """One full-context RL stage: stages differ by these alone."""

    max_input_tokens: int = Field(ge=32, description="Longest prompt; longer ones are left out and counted.")
    max_output_tokens: int = Field(ge=1, description="Longest answer.")
    learning_rate: float = Field(gt=0, le=1, description="Constant.")
    steps: int = Field(ge=1, description="Updates.")
    filter_prompts: int = Field(
        ge=0, description="Prompts drawn for the retrospective difficulty filter; 0: no filter, all are used."
    )
    filter_rollouts: int = Field(
        ge=1, description="Rollouts per prompt in the filter (4); kept if 0 < mean reward < 1."
    )


class RLStage(Section):
    """Everything that an rl@stageN stage depends on."""

    shared: RLSharedConfig
    stage: RLStageParams
    judge: EndpointConfig = NO_ENDPOINT  # the pipeline always names it
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class MemoryRLConfig(Section):
    """Memory RL: one stage from stage 3."""

    agent: MemoryAgentConfig
    max_input_tokens: int = Field(ge=32, description="Longest document context of a trajectory.")
    learning_rate: float = Field(gt=0, le=1, description="Constant.")
    steps: int = Field(ge=1, description="Updates.")
    filter_prompts: int = Field(
        ge=0, description="Prompts drawn for the retrospective difficulty filter; 0: no filter."
    )
    filter_rollouts: int = Field(ge=1, description="Trajectories per prompt in the filter.")
    std_scope: Literal["task", "group", "batch", "none"] = Field(
        description="The paper normalises trajectories by the group's std (Eq. 3)."
    )
    turn_weighting: Literal["token", "trajectory", "final_only"] = Field(
        description="How a trajectory's turns share its gradient (recipe section 4)."
    )


class MemoryRLStage(Section):
    """Everything that the memory_rl stage depends on."""

    memory_rl: MemoryRLConfig
    shared: RLSharedConfig
    judge: EndpointConfig = NO_ENDPOINT  # the pipeline always names it
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")
