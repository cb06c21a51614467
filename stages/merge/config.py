"""Parameters of the merge stage (SCE, recipe section 5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Section


class MergeConfig(Section):
    """Fusion of the stage-3 model and the memory expert over the model before RL."""

    method: Literal["sce"] = Field(description="Merge method.")
    select_topk: float = Field(
        gt=0,
        le=1,
        description="Fraction of the non-zero-variance elements kept; below 1 agreed weights fall back to the base.",
    )
    weighting: Literal["scale_free", "reference"] = Field(
        description="reference: bit-compatible with mergekit (absolute thresholds)."
    )


class MergeStage(Section):
    """Everything that the merge stage depends on."""

    merge: MergeConfig
