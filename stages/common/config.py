"""Base class of every configuration section, and the section that all model stages share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen section of params.yaml: unknown keys are refused and no field has a default.

    params.yaml is complete and the only truth, so a default in code would be a second one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class TrainConfig(Section):
    """What every stage that runs a model shares."""

    cpu_threads: int = Field(
        ge=1, le=256, description="Threads of torch on CPU; part of identity, since sums depend on it."
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        description="Type of forward and backward passes; master weights, optimizer and saved weights are float32."
    )
