"""What the memory agent is asked and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stages.common.rollouts import Segment

Document = str | Path


@dataclass(frozen=True)
class Turn:
    """What one chunk did. `memory` and `plan` are those after the turn.

    chunk_start, chunk_end: characters of the document. Token counts are of this turn's chunk, prompt and response.
    seconds: from asking to the new memory; it waits for other requests of the engine's batch too.
    """

    number: int  # from 1
    memory: str
    plan: str
    response: str
    parsed: bool  # False: the old memory was kept
    truncated: bool  # the response ran into turn_tokens
    memory_cut: bool  # the memory was longer than memory_tokens
    memory_before: str = ""
    chunk_start: int = 0
    chunk_end: int = 0
    chunk_tokens: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    seconds: float = field(default=0.0, compare=False)


OnTurn = Callable[[Turn], None]


@dataclass(frozen=True)
class AgentResult:
    """The answer (reasoning stripped), and how it came about."""

    answer: str
    turns: tuple[Turn, ...]
    text: str  # the final response as generated
    prompt_tokens: int  # over all turns and the answer
    response_tokens: int
    segments: tuple[Segment, ...] = field(default=(), repr=False)  # one per turn and the answer, if asked for
    answer_seconds: float = field(default=0.0, compare=False)  # from asking for the answer to having it

    @property
    def counters(self) -> dict[str, int]:
        """Turns and what went wrong in them, for metrics."""
        return {
            "turns": len(self.turns),
            "parse_failures": sum(not turn.parsed for turn in self.turns),
            "truncated_turns": sum(turn.truncated for turn in self.turns),
            "memory_cuts": sum(turn.memory_cut for turn in self.turns),
        }


@dataclass(frozen=True)
class AgentTask:
    """One question to one document, for `answer_all`."""

    question: str
    document: Document
    format_instruction: str
    seed: int
