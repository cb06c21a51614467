"""The paper's own numbers (arXiv:2512.12967, section 5, percent), shown beside ours. None: not reported, or not at hand.

They belong to Qwen3-30B-A3B-Thinking-2507 (ablations: Qwen3-4B-Thinking-2507), windows of 128K and the official data.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "Qwen3-30B-A3B-Thinking-2507"

# The six long-context benchmarks of Table 7: column, name of our benchmark. CorpusQA has no published data: ours is made.
BENCHMARKS = (
    ("DocMath", "docmath"),
    ("LongBench v2", "longbench_v2"),
    ("Frames", "frames"),
    ("MRCR", "mrcr"),
    ("CorpusQA", "corpus_numerical"),
    ("LongBench v1 QA", "longbench_v1"),
)

# Table 7: model, average, the six benchmarks.
TABLE_7: tuple[tuple[str, float, tuple[float, ...] | None], ...] = (
    (MODEL, 61.92, (62.26, 49.11, 70.27, 51.27, 71.56, 67.10)),
    ("the same after naive GRPO", 67.24, (65.12, 55.27, 71.36, 66.92, 76.87, 67.90)),
    ("after RL stage 4 (QwenLong-L1.5-30B-A3B)", 71.82, None),
    ("Gemini-2.5-Pro", 72.40, None),
    ("GPT-5", 74.74, None),
)


@dataclass(frozen=True)
class StageScores:
    """What the paper reports of the model after one of our stages."""

    average: float | None = None  # six benchmarks, full context
    mrcr_agent: float | None = None  # memory agent, MRCR of 512K to 1M tokens
    corpusqa_agent: float | None = None  # memory agent, CorpusQA of 4M tokens


# By our names of the models; the paper has no warm-up.
STAGES: dict[str, StageScores] = {
    "base": StageScores(61.92, 4.24, 9.52),
    "stage1": StageScores(69.59, 17.14),
    "stage2": StageScores(70.46),
    "stage3": StageScores(71.59, 12.66),
    "memory": StageScores(68.53, 20.34),
    "merge": StageScores(71.18, 21.68),
    "stage4": StageScores(71.82, 22.53, 14.29),
}


@dataclass(frozen=True)
class Variant:
    """How the RL of a run differs from the paper's final recipe; None fits any value."""

    std_scope: str | None = None
    aepo: bool = False
    clipping: str | None = None  # "<level>/<side>", such as token/high; "none" without clipping


@dataclass(frozen=True)
class Ablation:
    """One line of the paper's ablations on the 4B model: average of the benchmarks, and how to run it here.

    variant: runs whose line it is; None: no run is.
    """

    group: str
    variant_name: str
    average: float
    here: str
    variant: Variant | None = None


ABLATIONS = (
    Ablation("base model", "Qwen3-4B-Thinking-2507", 52.79, "evaluate@base of any run"),
    Ablation("advantage", "GRPO", 56.07, "not to be had: sampling is always task-balanced here"),
    Ablation(
        "advantage", "+ task-balanced sampling", 56.86,
        "rl.shared.std_scope=group, rl.shared.aepo.enabled=false", Variant("group", clipping="none"),
    ),
    Ablation(
        "advantage", "+ std of the batch", 57.45,
        "rl.shared.std_scope=batch, rl.shared.aepo.enabled=false", Variant("batch", clipping="none"),
    ),
    Ablation(
        "advantage", "+ std of the task in the batch", 58.62,
        "rl.shared.std_scope=task, rl.shared.aepo.enabled=false", Variant("task", clipping="none"),
    ),
    Ablation(
        "negative clipping", "high-entropy tokens", 57.02,
        "rl.shared.negative_clipping: {level: token, side: high}, rl.shared.aepo.enabled=false",
        Variant(clipping="token/high"),
    ),
    Ablation(
        "negative clipping", "high-entropy sequences", 57.36,
        "rl.shared.negative_clipping: {level: sequence, side: high}, rl.shared.aepo.enabled=false",
        Variant(clipping="sequence/high"),
    ),
    Ablation(
        "negative clipping", "low-entropy tokens", 55.56,
        "rl.shared.negative_clipping: {level: token, side: low}, rl.shared.aepo.enabled=false",
        Variant(clipping="token/low"),
    ),
    Ablation("negative clipping", "AEPO", 59.36, "rl.shared.aepo.enabled=true", Variant(aepo=True, clipping="none")),
)  # fmt: skip


def is_line_of(ablation: Ablation, run: Variant) -> bool:
    """True if a run with these settings is that line. A run is at most one line's.

    >>> [a.variant_name for a in ABLATIONS if is_line_of(a, Variant("task", aepo=True, clipping="none"))]
    ['AEPO']
    """
    line = ablation.variant
    return (
        line is not None
        and line.aepo == run.aepo
        and line.std_scope in (None, run.std_scope)
        and line.clipping in (None, run.clipping)
    )
