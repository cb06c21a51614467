"""In which order a context's documents stand: distractors at random, evidence at places drawn uniformly.

A plain shuffle is not enough: evidence at the top of whole documents, or three long documents in a context, would leave
parts of the context without evidence. Each evidence document draws a place in [0, 1) and is put where its evidence comes
nearest to it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """A block of a context: its tokens, and at which of them (on average) its evidence stands; None: a distractor."""

    document_id: str
    tokens: int
    evidence_at: float | None


def arrange(blocks: Sequence[Placed], chance: random.Random) -> list[str]:
    """Document ids in reading order."""
    order = [block for block in blocks if block.evidence_at is None]
    evidence = [block for block in blocks if block.evidence_at is not None]
    chance.shuffle(order)
    chance.shuffle(evidence)
    for block in evidence:
        assert block.evidence_at is not None
        total = sum(other.tokens for other in order) + block.tokens
        wanted = chance.random() * total
        best, best_distance, position = 0, float("inf"), 0
        for slot in range(len(order) + 1):
            distance = abs(position + block.evidence_at - wanted)
            if distance < best_distance:
                best, best_distance = slot, distance
            position += order[slot].tokens if slot < len(order) else 0
        order.insert(best, block)
    return [block.document_id for block in order]
