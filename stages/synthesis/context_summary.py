"""What assembly made, in numbers: lengths, places of evidence, documents per context, drops. Counted as samples stream by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.common.records import Dropped, Sample, TaskType


class ContextTally:
    """Totals of one run."""

    def __init__(self) -> None:
        self.dropped: list[Dropped] = []
        self.used: set[str] = set()  # documents that contexts refer to
        self._tasks: Counter[str] = Counter()
        self._tokens: list[int] = []
        self._deciles: Counter[int] = Counter()
        self._task_deciles: Counter[tuple[str, int]] = Counter()
        self._documents = 0

    def keep(self, sample: Sample, positions: Sequence[float]) -> None:
        """Count a sample. positions: 0 to 1, where its evidence stands."""
        task = str(sample.task_type)
        self._tasks[task] += 1
        self._tokens.append(sample.context_tokens)
        shown = {span.document_id for span in sample.context}
        self.used |= shown
        self._documents += len(shown)
        for position in positions:
            decile = min(9, int(position * 10))
            self._deciles[decile] += 1
            self._task_deciles[task, decile] += 1

    def drop(self, dropped: Dropped) -> None:
        """Count a question that has no context."""
        self.dropped.append(dropped)

    def samples_of(self, task: TaskType) -> int:
        """Samples kept of a task."""
        return self._tasks[str(task)]

    def summary(self, documents: int) -> dict[str, Any]:
        """The stage's summary.json; `documents`: how many were written."""
        tokens = sorted(self._tokens)
        samples = len(tokens)
        return {
            "counts": {"samples": samples, "dropped": len(self.dropped), "documents": documents},
            "dropped": dict(Counter(record.reason for record in self.dropped)),
            "samples_per_task": dict(self._tasks),
            "context_tokens": {
                "min": tokens[0],
                "mean": round(sum(tokens) / samples, 1),
                "median": tokens[samples // 2],
                "max": tokens[-1],
                "total": sum(tokens),
            },
            "documents_per_context": round(self._documents / samples, 2),
            "evidence_deciles": _shares({decile: self._deciles[decile] for decile in range(10)}),
            "evidence_deciles_per_task": {
                task: _shares({decile: self._task_deciles[task, decile] for decile in range(10)})
                for task in sorted(self._tasks)
            },
        }


def _shares(counts: dict[int, int]) -> dict[str, float]:
    """Share of evidence in each tenth of the context."""
    total = sum(counts.values()) or 1
    return {f"{10 * decile}-{10 * decile + 10} %": round(counts[decile] / total, 4) for decile in sorted(counts)}
