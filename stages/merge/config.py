"""Parameters of the merge stage (recipe section 5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Section


class MergeConfig(Section):
    """Fusion of the stage-3 model and the memory expert over the model before RL."""

    method: Literal["sce", "linear", "task_arithmetic"] = Field(
        description="sce; linear: weighted mean of the experts; task_arithmetic: base plus weighted differences."
    )
    select_topk: float = Field(
        gt=0,
        le=1,
        description="Fraction of the non-zero-variance elements kept; below 1 agreed weights fall back to the base.",
    )
    weighting: Literal["scale_free", "reference"] = Field(
        description="reference: bit-compatible with mergekit (absolute thresholds)."
    )
    dtype: Literal["auto", "base", "float32", "bfloat16", "float16"] = Field(
        description="Type of the written weights. auto: the widest among base and experts; base: the base's, tensor by tensor."
    )
    weights: list[float] | None = Field(
        description="For linear and task_arithmetic, one for stage 3 and one for memory; null: 1/2 and 1/2, or 1 and 1."
    )


class MergeStage(Section):
    """Everything that the merge stage depends on."""

    merge: MergeConfig
