"""Parameters of synthesize, assemble, verify and stratify."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Section, TrainConfig


class GeneratorConfig(Section):
    """One task type's generator."""

    questions: int = Field(
        ge=1, description="Questions to make; fewer than `min_questions` found is an error, between the two a warning."
    )
    min_questions: int = Field(
        ge=1,
        description="With fewer the corpus is too small for this task type: an error that says how many were found.",
    )


class SynthesizeStage(Section):
    """Everything that one synthesize@TASK stage depends on."""

    generator: GeneratorConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class AssembleConfig(Section):
    """Context extension: irrelevant documents around the evidence until the target length."""

    min_context_tokens: int = Field(ge=64, description="Target lengths are drawn uniformly between these two.")
    max_context_tokens: int = Field(ge=64, description="Longest target length, in tokens of the base model.")
    hard_distractors: float = Field(
        ge=0,
        le=1,
        description="Share of the look-up questions whose distractors hold the same attribute of other entities; 1 is hardest.",
    )
    max_span_tokens: int = Field(ge=32, description="Longest excerpt taken from one document, evidence included.")


class AssembleStage(Section):
    """Everything that the assemble stage depends on."""

    assemble: AssembleConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class VerifyConfig(Section):
    """Checks that need a model (paper section 3.3); programmatic checks always run on every sample."""

    samples_per_task: int = Field(
        ge=0, description="Samples per task type that the model checks; only these can enter RL."
    )
    attempts: int = Field(ge=1, description="k of pass@k: completions per check.")
    extra_distractor_tokens: int = Field(ge=0, description="Irrelevant text added for the robustness check.")
    max_answer_tokens: int = Field(ge=1, description="Longest answer.")
    temperature: float = Field(ge=0, le=2, description="Sampling temperature of the attempts.")
    top_p: float = Field(gt=0, le=1, description="Nucleus of the attempts.")
    closed_book_threshold: float = Field(
        ge=0,
        le=1,
        description="Dropped if the mean closed-book reward is above this; letter questions: above chance as well.",
    )
    require_solvable: bool = Field(
        description="Drop samples whose pass@k is zero with more distractors (robustness check)."
    )


class VerifyStage(Section):
    """Everything that the verify stage depends on."""

    verify: VerifyConfig
    train: TrainConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class StratifyConfig(Section):
    """Splits and pass@k bins."""

    heldout_per_task: dict[str, int] = Field(
        description="Held-out questions per task type; their evidence never occurs in training."
    )
    rl_prompts_per_task: int = Field(
        ge=1, description="Prompts for RL per task type, drawn equally from the pass@k bins."
    )
    sft_samples_per_task: dict[str, int] = Field(
        description="Samples for the warm-up per task type; disjoint from the RL prompts where the data allow it."
    )
    bins: int = Field(ge=1, description="Uniform pass@k bins between 0 and 1.")


class StratifyStage(Section):
    """Everything that the stratify stage depends on."""

    stratify: StratifyConfig
    seed: int = Field(ge=0, description="Seed of the pipeline.")
