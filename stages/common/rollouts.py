"""The nouns of the model side: what an engine returns, and what the trainer consumes.

A full-context answer is a Rollout of one Segment; a memory-agent trajectory is a Rollout of K + 1 Segments
(one per chunk, then the answer). Reward and advantage belong to the Rollout, never to a Segment.

Example, G = 2, one prompt of 3 tokens:
    RolloutGroup(sample_id="numerical-0a..", task_type="numerical", group_id=0, rollouts=(
        Rollout(segments=(Segment((1, 2, 3), (7, 9), (-0.1, -0.3), "answer", "stop"),), text="42", reward=1.0),
        Rollout(segments=(Segment((1, 2, 3), (8, 9), (-2.0, -0.2), "answer", "stop"),), text="41", reward=0.0)))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]
SegmentKind = Literal["answer", "memory"]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt, n independent completions of it."""

    prompt_ids: tuple[int, ...]
    n: int = 1
    max_tokens: int
    temperature: float  # 0 means greedy
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One generated answer.

    token_ids: generated ids, the end token included when finish_reason is "stop".
    logprobs: log-probability of each generated id, temperature 1, full vocabulary.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class Segment:
    """One prompt and what was generated after it."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    kind: SegmentKind
    finish_reason: FinishReason


@dataclass(frozen=True)
class Rollout:
    """One answer (one segment) or one memory trajectory (several), with its reward."""

    segments: tuple[Segment, ...]
    text: str  # the final answer, decoded, special tokens removed
    reward: float
    counters: dict[str, int] = field(default_factory=dict)  # e.g. {"parse_failures": 1}

    @property
    def num_response_tokens(self) -> int:
        return sum(len(segment.response_ids) for segment in self.segments)

    @property
    def truncated(self) -> bool:
        """True if the answer ran into the token limit."""
        return self.segments[-1].finish_reason == "length"


@dataclass(frozen=True)
class RolloutGroup:
    """The G rollouts of one prompt. All members answer the same sample."""

    sample_id: str
    task_type: str
    group_id: int
    rollouts: tuple[Rollout, ...]


class TurnLog(Protocol):
    """Finished turns of memory trajectories that outlive a kill, by name within a step."""

    def get(self, name: str) -> list[Completion] | None:
        """What `add` kept under this name, or None."""
        ...

    def add(self, name: str, completions: list[Completion]) -> None:
        """Keep the completions of a turn; on disk when this returns."""
        ...
