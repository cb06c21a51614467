"""Where evidence stands in a sample's context, in characters of the text that a model sees (prompts.materialise_context)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.prompts import materialise_context, opening_tag
from stages.common.records import QAPair, Sample, Span
from stages.common.storage import DocumentStore


@dataclass(frozen=True)
class ShownSpan:
    """One span of a context: `begin` is where its text starts in the materialised context of `total` characters."""

    number: int
    span: Span
    title: str
    begin: int
    total: int


@dataclass(frozen=True)
class ShownEvidence:
    """A piece of evidence, the span that shows it, and where its middle stands (0 to 1) in the context."""

    evidence: Span
    shown_in: ShownSpan
    position: float


def shown_spans(sample: Sample, documents: DocumentStore) -> list[ShownSpan]:
    """The spans of the context in reading order. InputError if a document is missing."""
    titles = [documents[span.document_id].title for span in sample.context]
    begins, position = [], 0
    for span, title in zip(sample.context, titles, strict=True):
        begin = position + len(opening_tag(title)) + 1
        begins.append(begin)
        position = begin + (span.end - span.start) + len("\n</document>\n")
    total = max(0, position - 1)
    parts = zip(sample.context, titles, begins, strict=True)
    return [ShownSpan(number, span, title, begin, total) for number, (span, title, begin) in enumerate(parts, start=1)]


def shown_evidence(pair: QAPair, spans: Sequence[ShownSpan]) -> list[ShownEvidence]:
    """Each piece of evidence in the first span that shows it whole; what no span shows is left out."""
    found = []
    for evidence in pair.evidence:
        for shown in spans:
            span = shown.span
            if span.document_id == evidence.document_id and span.start <= evidence.start and evidence.end <= span.end:
                middle = shown.begin + (evidence.start + evidence.end) / 2 - span.start
                found.append(ShownEvidence(evidence, shown, middle / max(1, shown.total)))
                break
    return found


def context_with_offsets(sample: Sample, documents: DocumentStore) -> tuple[str, list[ShownSpan]]:
    """The text that a model sees and where its spans stand in it."""
    return materialise_context(sample, documents), shown_spans(sample, documents)
