"""Parameters of the memory agent (paper section 2.3); those of its RL stage are in stages/rl/config.py."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Section
from stages.memory.prompts import PromptOrder
from stages.memory.query import SplitBy


class MemoryAgentConfig(Section):
    """Lengths of the agent; the same for training and evaluation."""

    chunk_tokens: int = Field(ge=16, description="Document tokens read per turn.")
    memory_tokens: int = Field(ge=8, description="Cap on the stored memory.")
    turn_tokens: int = Field(ge=8, description="Cap on what a turn generates: reasoning, memory and plan.")
    answer_tokens: int = Field(ge=1, description="Cap on the final answer.")
    prompt_order: PromptOrder = Field(
        description="Memory and plan before the section (memory_first, the paper's) or behind it (section_first, so that a group shares it).",
    )
    split_question: SplitBy = Field(
        description="Formatting instructions are taken out of the question and stand in the last prompt only: off, by rules, or "
        "by the model behind endpoints.judge (by rules where there is none).",
    )
