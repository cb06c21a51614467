"""What became of each tensor of a merge, and of the model as a whole: rows and summary of merge.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.merge.passes import Figures


@dataclass(frozen=True)
class TensorReport:
    """One tensor. `figures` is None for integer tensors, which must be equal and are copied."""

    name: str
    parameters: int
    figures: Figures | None

    def as_row(self) -> dict[str, Any]:
        """JSON-safe."""
        row: dict[str, Any] = {"name": self.name, "parameters": self.parameters}
        if self.figures is None:
            return {**row, "copied": True}
        return {**row, **asdict(self.figures)}

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> TensorReport:
        """The inverse of `as_row`."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        name, parameters = values.pop("name"), values.pop("parameters")
        return cls(name, parameters, None if "copied" in values else Figures(**values))


def summarise(reports: Sequence[TensorReport], experts: Sequence[str]) -> dict[str, float | None]:
    """Figures of the whole merge, each tensor weighted by its parameters; one weight and cosine per expert's name."""
    merged = [(report.parameters, report.figures) for report in reports if report.figures is not None]
    changed = [(count, figures) for count, figures in merged if any(figures.delta_rms)]
    summary: dict[str, float | None] = {
        "changed_tensors": float(len(changed)),
        "erased_fraction": _mean([(n, figures.erased_fraction) for n, figures in changed]) or 0.0,
        "cosine": _mean([(n, figures.cosine) for n, figures in changed]),
    }
    for index, name in enumerate(experts):
        summary[f"weight_{name}"] = _mean([(n, figures.weights[index]) for n, figures in changed]) or 0.0
        summary[f"cosine_to_{name}"] = _mean([(n, figures.expert_cosines[index]) for n, figures in changed])
    return summary


def _mean(weighted: Sequence[tuple[int, float | None]]) -> float | None:
    """Mean of the values that there are, weighted; None if there are none."""
    known = [(count, value) for count, value in weighted if value is not None]
    total = sum(count for count, _ in known)
    return math.fsum(count * value for count, value in known) / total if total else None
