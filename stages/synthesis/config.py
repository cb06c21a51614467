"""Parameters of synthesize, assemble, verify and stratify."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import NO_ENDPOINT, EndpointConfig, Section, TrainConfig


class GeneratorConfig(Section):
    """One task type's generator."""

    questions: int = Field(
        ge=1, description="Questions to make; fewer than `min_questions` found is an error, between the two a warning."
    )
    min_questions: int = Field(
        ge=1,
        description="With fewer the corpus is too small for this task type: an error that says how many were found.",
    )


class MultiHopConfig(GeneratorConfig):
    """Questions over the knowledge graph."""

    min_hops: int = Field(ge=2, le=6, description="Fewest facts that a question joins.")
    max_hops: int = Field(ge=2, le=6, description="Most facts that a question joins.")
    min_distance_tokens: int = Field(
        ge=0, description="Facts of one question that are read from one document stand at least this far apart."
    )
    max_evidence_characters: int = Field(
        ge=0, description="Longest evidence of one question, all spans together; 0: no limit."
    )
    named_entities: bool = Field(
        description="Also read named entities with spaCy (extra `ner`): about 10 processor seconds and 130 triples per MB of text."
    )

    @model_validator(mode="after")
    def _ordered(self) -> MultiHopConfig:
        if self.min_hops > self.max_hops:
            raise ValueError(f"min_hops ({self.min_hops}) is above max_hops ({self.max_hops})")
        return self


class MultiHopStage(Section):
    """Everything that synthesize@multi_hop depends on. The pipeline always names `writer`; Python callers may not."""

    generator: MultiHopConfig
    writer: EndpointConfig = NO_ENDPOINT
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class SynthesizeStage(Section):
    """Everything that one synthesize@TASK stage depends on. The pipeline always names `writer`; Python callers may not."""

    generator: GeneratorConfig
    writer: EndpointConfig = NO_ENDPOINT
    seed: int = Field(ge=0, description="Seed of the pipeline.")


class SelfEvolutionConfig(Section):
    """Questions that a model writes, answers and checks itself (paper section 3.2); needs `endpoints.writer`."""

    questions: int = Field(ge=0, description="Verified questions wanted besides those made by rule; 0: none.")
    rounds: int = Field(ge=1, le=100, description="Rounds; each asks for harder questions than the one before.")
    min_documents: int = Field(ge=1, le=50, description="Documents of a cluster in the first round.")
    max_documents: int = Field(ge=1, le=50, description="Documents of a cluster in the last round.")
    excerpt_characters: int = Field(ge=500, description="Characters of each document that the model is shown.")
    closed_book: bool = Field(
        description="Drop questions that the model answers without the documents (one more call)."
    )

    @model_validator(mode="after")
    def _ordered(self) -> SelfEvolutionConfig:
        if self.min_documents > self.max_documents:
            raise ValueError("min_documents must not exceed max_documents")
        return self


class ReadingConfig(GeneratorConfig):
    """Reading questions: by rule, and by self-evolution where an endpoint is configured."""

    self_evolution: SelfEvolutionConfig


class ReadingStage(SynthesizeStage):
    """Everything that synthesize@reading_comprehension depends on."""

    generator: ReadingConfig


class DialogueConfig(GeneratorConfig):
    """Dialogue questions: how much of a conversation one of them may be about."""

    max_window_characters: int = Field(
        ge=1_500,
        description="Longest part of a conversation that one question is about, in characters (about four per token). For windows of "
        "millions of tokens raise it together with `assemble.max_span_tokens` and `assemble.max_context_tokens`; the longest windows "
        "grow with the text that there is for each question.",
    )


class DialogueStage(SynthesizeStage):
    """Everything that synthesize@dialogue_memory depends on."""

    generator: DialogueConfig


class NumericalConfig(GeneratorConfig):
    """Numerical questions: which families, and how many entities one question compares."""

    families: dict[str, float] = Field(
        description="Weight per query family (names as in `generator`: lookup, growth, ...); `computed` stands for all "
        "that compute something and are not named, in equal parts."
    )
    max_entities: int = Field(
        ge=3, le=12, description="Most entities (each in a document of its own) that one question compares."
    )
    written: int = Field(
        ge=0,
        description="Questions that a model writes as sentence and SQL, besides the others; needs `endpoints.writer`.",
    )


class NumericalStage(SynthesizeStage):
    """Everything that synthesize@numerical depends on."""

    generator: NumericalConfig


class AssembleConfig(Section):
    """Context extension: irrelevant documents around the evidence until the target length."""

    min_context_tokens: int = Field(ge=64, description="Shortest target length of a context.")
    mean_context_tokens: int = Field(
        ge=64, description="Mean of the target lengths: a log-normal distribution that is cut off at both ends."
    )
    max_context_tokens: int = Field(ge=64, description="Longest context, in tokens of the base model.")
    reserved_documents: float = Field(
        ge=0,
        le=0.5,
        description="Share of the documents that no context shows beside others' evidence, so that questions about them can "
        "be held out without losing the samples whose contexts would show their evidence.",
    )
    hard_distractors: float = Field(
        ge=0,
        le=1,
        description="Share of the look-up questions whose distractors hold the same attribute of other entities; 1 is hardest.",
    )
    max_span_tokens: int = Field(
        ge=32, description="Longest part taken from one document, evidence included; shorter documents are shown whole."
    )


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
        description="Held-out questions per task type; no training question has their evidence, no training context all of it."
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
