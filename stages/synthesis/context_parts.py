"""A context in the making: blocks of excerpts by document, and where evidence stands in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stages.common.records import QAPair, Sample, Span
from stages.synthesis.excerpts import Excerpt


@dataclass
class Block:
    """Excerpts of one document with their tokens; each stands between tags of its own."""

    excerpts: list[Excerpt]
    tag_tokens: int

    @property
    def tokens(self) -> int:
        return sum(excerpt.tokens + self.tag_tokens for excerpt in self.excerpts)


@dataclass
class Draft:
    """A context in the making, by document id; the first `evidence_documents` hold the evidence."""

    blocks: dict[str, Block] = field(default_factory=dict)
    evidence_documents: int = 0

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks.values())


@dataclass(frozen=True)
class Assembled:
    """A sample, and where in its context each piece of evidence stands (0 to 1, by tokens)."""

    sample: Sample
    positions: tuple[float, ...]


def tokens_before(block: Block, evidence: Span) -> float | None:
    """About how many tokens of a block stand before the middle of an evidence span."""
    before = 0
    for excerpt in block.excerpts:
        if excerpt.start <= evidence.start and evidence.end <= excerpt.end:
            middle = (evidence.start + evidence.end) / 2
            share = (middle - excerpt.start) / (excerpt.end - excerpt.start)
            return before + share * (excerpt.tokens + block.tag_tokens)
        before += excerpt.tokens + block.tag_tokens
    return None


def needed_spans(pair: QAPair) -> dict[str, list[tuple[int, int]]]:
    """What the context must hold, per document: the evidence and, for a dialogue, the window that is counted in."""
    spans: dict[str, list[tuple[int, int]]] = {}
    window: dict[str, Any] | None = pair.proof.get("window")
    if window is not None:
        spans[str(window["document_id"])] = [(int(window["start"]), int(window["end"]))]
    for evidence in pair.evidence:
        known = spans.setdefault(evidence.document_id, [])
        if not any(start <= evidence.start and evidence.end <= end for start, end in known):
            known.append((evidence.start, evidence.end))
    return spans
