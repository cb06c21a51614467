"""Who goes where: held-out questions, RL prompts by pass@k bins, warm-up samples. Pure; works on spans alone.

Held-out first. A sample may train only if nothing that its context shows overlaps a held-out question's evidence, in any
task. To leave room for that, held-out questions are taken from few documents (a random order of documents, the same for
all tasks) and, where possible, from evidence that no model-checked sample shows.
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
    """Samples whose evidence and context share no character with a held-out sample's evidence."""
    tested = SpanIndex(span for sample in heldout for span in evidence_spans(sample))
    held = {sample.id for sample in heldout}
    return [
        sample
        for sample in samples
        if sample.id not in held
        and not any(tested.overlaps(span) for span in [*evidence_spans(sample), *sample.context])
    ]


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
