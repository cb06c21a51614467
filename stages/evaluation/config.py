"""Parameters of the evaluate stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.common.config import EndpointConfig, Section, TrainConfig
from stages.evaluation.base import Mode
from stages.memory.config import MemoryAgentConfig


class EvaluateSharedConfig(Section):
    """What all models are asked alike."""

    max_input_tokens: int = Field(ge=32, description="Prompts longer than this are cut in the middle.")
    max_output_tokens: int = Field(ge=1, description="Longest response, its reasoning included.")
    reasoning_tokens: int = Field(
        ge=0, description="Room for reasoning on top of a benchmark's own budget for the answer."
    )
    temperature: float = Field(ge=0, le=2, description="0 is greedy; the paper's is 0.7.")
    top_p: float = Field(gt=0, le=1, description="Nucleus; the paper's is 0.95.")
    needle_tokens: list[Annotated[int, Field(ge=32)]] = Field(
        description="Context lengths of the needle test (RULER form)."
    )
    dialogue_tokens: list[Annotated[int, Field(ge=32)]] = Field(
        description="Context lengths of the dialogue recall test (MRCR form)."
    )
    benchmark_tokens: list[Annotated[int, Field(ge=64)]] = Field(
        description="Context lengths of the benchmarks that are generated (RULER, GraphWalks, MRCR, BABILong, ...)."
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
    benchmarks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        description="Questions of each benchmark of `longfuse eval --list`; data in data/evaluation/."
    )
    modes: list[Mode] = Field(description="How the benchmarks are asked: full_context, memory_agent, closed_book.")
    samples: int = Field(ge=1, le=64, description="Answers per question (k); the score is their mean.")


class EvaluateStage(Section):
    """Everything that an evaluate@MODEL stage depends on."""

    shared: EvaluateSharedConfig
    plan: EvaluatePlan
    judge: EndpointConfig
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class AskSettings(Section):
    """What decides an answer besides the model and the question; kept answers of other settings are not used."""

    max_input_tokens: int = Field(ge=32, description="Prompts longer than this are cut in the middle.")
    max_output_tokens: int = Field(ge=1, description="Longest response.")
    reasoning_tokens: int = Field(ge=0, description="Added to the answer budget of a benchmark.")
    temperature: float = Field(ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(gt=0, le=1, description="Nucleus.")
    samples: int = Field(ge=1, description="Answers per question (k).")
    seed: int = Field(
        ge=0, description="Every answer's seed is derived from it, the benchmark, the question and its number."
    )
    agent: MemoryAgentConfig
