"""The score table that `longfuse eval` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.evaluation.session import Evaluation

_SHOWN_BROKEN = 3


def score_table(evaluation: Evaluation) -> list[str]:
    """Lines: one per benchmark and mode, scores times 100; then what was skipped and what was broken."""
    head = ["benchmark", "mode", "metric", "n", "k", "score", "95 % interval", ""]
    body = [_cells(row) for row in evaluation.rows]
    lines = _aligned([head, *body]) if body else []
    for name, reason in evaluation.skipped.items():
        lines.append(f"skipped {name}: {reason}")
    for name, rows in evaluation.broken.items():
        listed = "; ".join(f"{row.where}: {row.reason}" for row in rows[:_SHOWN_BROKEN])
        more = f"; and {len(rows) - _SHOWN_BROKEN} more in scores.json" if len(rows) > _SHOWN_BROKEN else ""
        lines.append(f"broken rows of {name}, left out: {len(rows)} ({listed}{more})")
    return lines


def _cells(row: Mapping[str, Any]) -> list[str]:
    known = row["mean"] is not None
    return [
        row["benchmark"],
        row["mode"],
        row["metric"],
        str(row["n"]),
        str(row["samples"]),
        f"{100 * row['mean']:.1f}" if known else "-",
        f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}" if known else "-",
        _notes(row),
    ]


def _notes(row: Mapping[str, Any]) -> str:
    """What a reader should know before trusting the score."""
    notes = [f"{count} {reason}" for reason, count in row["failures"].items()]
    notes += [f"{count} unanswered ({reason})" for reason, count in row["unanswered"].items()]
    if row["context_cut"]:
        notes.append(f"{row['context_cut']} contexts cut")
    if row["cut_answers"]:
        notes.append(f"{row['cut_answers']} answers at the token limit")
    judge = row["judge"]
    if judge is not None and judge["agreement"] is not None:
        notes.append(f"rule and judge agree on {100 * judge['agreement']:.0f} % of {judge['asked'] - judge['failed']}")
    if judge is not None and judge["failed"]:
        notes.append(f"judge failed {judge['failed']}")
    return ", ".join(notes)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {3, 4, 5}
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
