"""Parameters of the evaluate stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.common.config import Section, TrainConfig
from stages.memory.config import MemoryAgentConfig


class EvaluateSharedConfig(Section):
    """What all models are asked alike."""

    max_input_tokens: int = Field(ge=32, description="Prompts longer than this are cut in the middle.")
    max_output_tokens: int = Field(ge=1, description="Longest answer.")
    temperature: float = Field(ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(gt=0, le=1, description="Nucleus.")
    needle_tokens: list[Annotated[int, Field(ge=32)]] = Field(
        description="Context lengths of the needle test (RULER form)."
    )
    dialogue_tokens: list[Annotated[int, Field(ge=32)]] = Field(
        description="Context lengths of the dialogue recall test (MRCR form)."
    )
    agent: MemoryAgentConfig


class EvaluatePlan(Section):
    """How much one model is asked."""

    questions_per_task: dict[str, Annotated[int, Field(ge=0)]] = Field(
        description="Held-out questions per task type in full-context mode."
    )
    needle_questions: int = Field(ge=0, description="Needle questions per length.")
    dialogue_questions: int = Field(ge=0, description="Dialogue recall questions per length.")
    agent_questions_per_task: int = Field(
        ge=0, description="Held-out questions per task type in memory-agent mode; 0: full context only."
    )


class EvaluateStage(Section):
    """Everything that an evaluate@MODEL stage depends on."""

    shared: EvaluateSharedConfig
    plan: EvaluatePlan
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")
