"""A trajectory of the memory agent as a compact record, for the reader who asks where an answer came from.

Stages hand records to `stages.common.metrics.record_trajectory`, which brings them to the tracker (infra/trajectories.py
makes a trace of each). A record is bounded whatever the document's length: texts are cut with a notice, a very long reading
loses its middle turns.

    {"key": "heldout/multi_hop/memory_agent/s-1/0", "question": .., "answer": .., "attributes": {"score": 1.0, ..},
     "answer_seconds": 0.4, "ended_ms": 1760000000000,
     "turns": [{"number": 1, "memory_before": "", "memory": .., "plan": .., "chunk_start_token": 0, ..}, ..]}
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from stages.memory.results import AgentResult, Turn

MAX_CHARACTERS = 400_000  # of all memories and plans of a trajectory
MAX_TEXT = 20_000  # of one text
MIN_TEXT = 400
MAX_TURNS = 512
_ENDS = MAX_TURNS // 2  # turns kept at either end of a longer reading


def trajectory_record(
    key: str, question: str, result: AgentResult, attributes: Mapping[str, Any], ended_ms: int | None = None
) -> dict[str, Any]:
    """The record of one trajectory.

    key: unique within the stage and the same in every run of it, so that nothing is recorded twice. attributes: numbers
    and short texts about the whole, such as sample_id and reward. ended_ms: when it ended; None: now.
    """
    turns = result.turns
    first_tokens = list(accumulate((turn.chunk_tokens for turn in turns), initial=0))
    places = [place for place in range(len(turns)) if place < _ENDS or place >= len(turns) - _ENDS]
    most = max(MIN_TEXT, min(MAX_TEXT, MAX_CHARACTERS // (3 * max(1, len(places)))))
    return {
        "key": key,
        "question": cut(question, MAX_TEXT),
        "answer": cut(result.answer, MAX_TEXT),
        "attributes": {
            **attributes,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.response_tokens,
            **result.counters,
            "turns_left_out": len(turns) - len(places),
        },
        "answer_seconds": result.answer_seconds,
        "ended_ms": int(time.time() * 1000) if ended_ms is None else ended_ms,
        "turns": [_turn(turns[place], first_tokens[place], most) for place in places],
    }


def verdict_record(key: str, judge: str, score: float) -> dict[str, Any]:
    """What a judge said later about the answer of the trajectory recorded under `key`, and the score with it."""
    return {"key": key, "verdict": {"judge": judge, "score": score}}


def _turn(turn: Turn, first_token: int, most: int) -> dict[str, Any]:
    """A turn without its response, from which the memory and the plan were taken."""
    return {
        "number": turn.number,
        "memory_before": cut(turn.memory_before, most),
        "memory": cut(turn.memory, most),
        "plan": cut(turn.plan, most),
        "parsed": turn.parsed,
        "truncated": turn.truncated,
        "memory_cut": turn.memory_cut,
        "chunk_start_token": first_token,
        "chunk_start": turn.chunk_start,
        "chunk_end": turn.chunk_end,
        "chunk_tokens": turn.chunk_tokens,
        "prompt_tokens": turn.prompt_tokens,
        "response_tokens": turn.response_tokens,
        "seconds": turn.seconds,
    }


def cut(text: str, most: int) -> str:
    """At most so many characters, and says what is missing."""
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most} more characters]"
