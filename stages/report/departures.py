"""Where this pipeline differs from the paper (arXiv:2512.12967), or decides what the paper leaves open."""

from __future__ import annotations

# (part, what is ours)
DEPARTURES: tuple[tuple[str, str], ...] = (
    (
        "Data",
        "Questions come from programs (SQL over table cells, paths in a fact graph, real dialogue turns), each with its "
        "evidence and proof; the paper lets language models write and check them.",
    ),
    ("Data", "Documents are filtered by rules only; the paper adds a language model as judge."),
    (
        "Warm-up",
        "SFT before RL is an addition; the paper starts RL from the base model. It has a switch, `sft.enabled`.",
    ),
    (
        "Batches",
        "The batch size counts prompts. Each task gets floor(B/K) prompts of a batch and the remainder rotates; every "
        "sample of a task is seen before any repeats.",
    ),
    (
        "Optimiser",
        "AdamW, gradient norm clipped, float32 master weights that are handed on between the stages: bfloat16 files would "
        "erase the small updates. The paper does not say.",
    ),
    (
        "Advantage",
        "Eq. 7 is computed in float64; a group or scope whose rewards are all equal gets exactly 0.",
    ),
    (
        "Objective",
        "The trained log-probability is over the full vocabulary at the sampling temperature, without renormalising to the "
        "nucleus; the engine's own probabilities do not enter the loss.",
    ),
    (
        "AEPO",
        "A switch with hysteresis: strictly above the upper threshold on, strictly below the lower one off, off at first. "
        "Entropy is measured at the sampling temperature, by default on the very batch that is trained on.",
    ),
    (
        "Overlong answers",
        "Masked, penalised or kept by a parameter; a masked answer keeps its tokens in the denominator and its reward in "
        "mean and standard deviation.",
    ),
    (
        "Filter between stages",
        "A stage draws rollouts from its parent at its own lengths and keeps prompts whose mean reward is neither 0 nor 1.",
    ),
    (
        "Reward",
        "By rule; where a rule fails on free text a language model decides, as in the paper, but only if an endpoint is given.",
    ),
    (
        "Memory agent",
        "Reasoning before the memory is trained on but not stored; a turn that does not parse keeps the old memory and is "
        "counted. How the turns share the gradient is a parameter.",
    ),
    (
        "Merge",
        "SCE over the model before RL, experts stage 3 and memory, all elements kept, weights by relative size without the "
        "absolute threshold that would make them uniform.",
    ),
    (
        "Evaluation",
        "Held-out questions of our own making, a needle test and dialogue recall; the paper's public benchmarks are asked where "
        "their data are at hand.",
    ),
)
