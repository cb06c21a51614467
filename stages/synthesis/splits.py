"""Who goes where: held-out questions, RL prompts by pass@k bins, warm-up samples. Pure; works on spans alone.

Held-out first. A sample may train only if its own evidence shares no character with a held-out question's, in any task, and
its context does not show all the evidence of one (with a part of it a question that joins facts cannot be answered). To leave room for that, held-out questions are taken where possible from evidence that no model-checked sample shows,
that few contexts show (`assemble` reserves documents for it), and from few documents (a random order, the same for all tasks).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.common.records import Sample, Span, TaskType
from stages.common.seeds import rng

# What the headline comparison asks comes first where there is a choice.
PREFERRED_GENERATOR = {TaskType.NUMERICAL: "numerical/lookup"}
_SHOWN_STEP = 20  # a few contexts more or less do not matter beside staying in few documents
_PREFERRED_PER_OTHER = 3  # in the warm-up: three look-ups to one other question


@dataclass(frozen=True)
class Bins:
    """RL prompts of one task by pass rate: how many there were and how many were drawn, per uniform bin."""

    available: list[int]
    drawn: list[int]


class SpanIndex:
    """Spans by document; tells whether another span overlaps one of them."""

    def __init__(self, spans: Iterable[Span]) -> None:
        by_document: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for span in spans:
            by_document[span.document_id].append((span.start, span.end))
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        for document_id, found in by_document.items():
            merged: list[list[int]] = []
            for start, end in sorted(found):
                if merged and start <= merged[-1][1]:
                    merged[-1][1] = max(merged[-1][1], end)
                else:
                    merged.append([start, end])
            self._starts[document_id] = [start for start, _ in merged]
            self._ends[document_id] = [end for _, end in merged]

    def overlaps(self, span: Span) -> bool:
        """True if they share a character."""
        starts = self._starts.get(span.document_id, [])
        # Merged spans are disjoint and sorted, so those that begin before our end and end after our start are a run.
        return bisect_left(starts, span.end) > bisect_right(self._ends.get(span.document_id, []), span.start)


class SpanCounts:
    """How many of many spans another span overlaps."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts: defaultdict[str, list[int]] = defaultdict(list)
        self._ends: defaultdict[str, list[int]] = defaultdict(list)
        for span in spans:
            self._starts[span.document_id].append(span.start)
            self._ends[span.document_id].append(span.end)
        for positions in (*self._starts.values(), *self._ends.values()):
            positions.sort()

    def overlapping(self, span: Span) -> int:
        """Spans that share a character with this one: those that begin before its end, less those that end by its start."""
        begun = bisect_left(self._starts.get(span.document_id, []), span.end)
        return begun - bisect_right(self._ends.get(span.document_id, []), span.start)


def evidence_spans(sample: Sample) -> list[Span]:
    """The evidence and, for a dialogue question, the window."""
    window = sample.proof.get("window")
    return [*sample.evidence, *([Span.model_validate(window)] if window is not None else [])]


def choose_heldout(
    samples: Sequence[Sample], checked: frozenset[str], per_task: Mapping[str, int], seed: int
) -> list[Sample]:
    """Held-out samples per task, in an order of which any beginning is a fair choice."""
    ranks = _document_ranks(samples, seed)
    shown_by_checked = SpanIndex(span for sample in samples if sample.id in checked for span in sample.context)
    shown = SpanCounts(span for sample in samples for span in sample.context)
    chosen: list[Sample] = []
    for task in TaskType:
        preferred = PREFERRED_GENERATOR.get(task)
        candidates = [sample for sample in samples if sample.task_type is task]
        rng(seed, "heldout", task).shuffle(candidates)
        candidates.sort(
            key=lambda sample: (
                sample.id in checked,
                preferred is not None and sample.generator != preferred,
                any(shown_by_checked.overlaps(span) for span in evidence_spans(sample)),
                min(shown.overlapping(span) for span in evidence_spans(sample)) // _SHOWN_STEP,
                min(ranks[span.document_id] for span in sample.evidence),
            )
        )
        taken = candidates[: per_task.get(task, 0)]
        rng(seed, "heldout order", task).shuffle(taken)
        taken.sort(key=lambda sample: preferred is not None and sample.generator != preferred)
        chosen += taken
    return chosen


def _document_ranks(samples: Sequence[Sample], seed: int) -> dict[str, int]:
    ids = sorted({span.document_id for sample in samples for span in sample.evidence})
    rng(seed, "heldout documents").shuffle(ids)
    return {document_id: rank for rank, document_id in enumerate(ids)}


def trainable(samples: Sequence[Sample], heldout: Sequence[Sample]) -> list[Sample]:
    """Samples that leave every held-out question a new one: see the top of this file."""
    tested = SpanIndex(span for sample in heldout for span in evidence_spans(sample))
    answerable = _Answerable(heldout)
    held = {sample.id for sample in heldout}
    return [
        sample
        for sample in samples
        if sample.id not in held
        and not any(tested.overlaps(span) for span in evidence_spans(sample))
        and not answerable.by(sample.context)
    ]


class _Answerable:
    """Which questions a context can answer: those of which it shows every piece of evidence, in part at least."""

    def __init__(self, questions: Sequence[Sample]) -> None:
        self._wanted = [len(evidence_spans(question)) for question in questions]
        self._in_document: defaultdict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        for number, question in enumerate(questions):
            for piece, span in enumerate(evidence_spans(question)):
                self._in_document[span.document_id].append((span.start, span.end, number, piece))

    def by(self, context: Sequence[Span]) -> bool:
        """True if there is such a question."""
        seen: defaultdict[int, set[int]] = defaultdict(set)
        for span in context:
            for start, end, number, piece in self._in_document.get(span.document_id, ()):
                if start < span.end and span.start < end:
                    seen[number].add(piece)
        return any(len(pieces) == self._wanted[number] for number, pieces in seen.items())


def draw_by_bins(
    samples: Sequence[Sample], pass_rates: Mapping[str, float], wanted: int, bins: int, seed: int, task: TaskType
) -> tuple[list[Sample], Bins]:
    """RL prompts of one task: uniform bins of the pass rate, one of each in turn until there are enough."""
    filled: list[list[Sample]] = [[] for _ in range(bins)]
    for sample in samples:
        filled[min(int(pass_rates[sample.id] * bins), bins - 1)].append(sample)
    available = [len(found) for found in filled]
    for number, found in enumerate(filled):
        rng(seed, "bins", task, number).shuffle(found)
    drawn: list[Sample] = []
    while len(drawn) < wanted and any(filled):
        for found in filled:
            if found and len(drawn) < wanted:
                drawn.append(found.pop())
    return drawn, Bins(available, [before - len(found) for before, found in zip(available, filled, strict=True)])


def choose_sft(
    samples: Sequence[Sample], rl_ids: frozenset[str], wanted: int, seed: int, task: TaskType
) -> list[Sample]:
    """Warm-up samples of one task: those outside RL first, then RL prompts if there are too few."""
    order = sorted(samples, key=lambda sample: sample.id)
    rng(seed, "sft", task).shuffle(order)
    outside = [sample for sample in order if sample.id not in rl_ids]
    inside = [sample for sample in order if sample.id in rl_ids]
    return [*_mixed(outside, task), *_mixed(inside, task)][:wanted]


def _mixed(samples: list[Sample], task: TaskType) -> list[Sample]:
    """Three of the preferred generator, one other, as long as both last."""
    name = PREFERRED_GENERATOR.get(task)
    preferred = [sample for sample in samples if sample.generator == name]
    others = [sample for sample in samples if sample.generator != name]
    mixed = []
    while preferred or others:
        mixed += [*preferred[:_PREFERRED_PER_OTHER], *others[:1]]
        preferred, others = preferred[_PREFERRED_PER_OTHER:], others[1:]
    return mixed
