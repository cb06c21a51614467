"""Parameters of the report stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Section


class ReportConfig(Section):
    """What the report shows."""

    title: str = Field(min_length=1, description="Heading of the report.")
    examples_per_task: int = Field(ge=0, description="Read examples shown per task type.")


class ReportStage(Section):
    """Everything that the report stage depends on. All but `report` say how this run's RL differs, for the ablation table."""

    report: ReportConfig
    std_scope: Literal["task", "group", "batch", "none"]
    aepo: bool
    clipping_level: Literal["none", "token", "sequence"]
    clipping_side: Literal["high", "low"]
