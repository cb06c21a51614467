"""A plan as plain lines for a terminal of 100 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.plan import Plan, PlannedStage, Reason
from infra.bucket_outputs import in_words

_WIDTH = 100
_MANY = 3  # more changed files than this are counted, not listed
_MANY_PARAMETERS = 6


def render_plan(plan: Plan) -> list[str]:
    """One line per stage with its action and reasons (wrapped), a summary, then warnings."""
    name_width = max((len(stage.stage) for stage in plan.stages), default=0)
    lines = []
    for stage in plan.stages:
        head = f"{stage.action:<8}{stage.stage:<{name_width}}  "
        reasons = "; ".join(explain(stage)) or "; ".join(["unchanged", *_in_bucket(plan, stage)])
        lines += textwrap.wrap(
            reasons, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
        )
    lines += ["", summary(plan)]
    for warning in plan.warnings:
        lines += textwrap.wrap(f"warning: {warning}", _WIDTH, subsequent_indent="  ")
    return lines


def _in_bucket(plan: Plan, stage: PlannedStage) -> list[str]:
    root = plan.dag.root if plan.dag is not None else Path()
    return [
        f"{output.path} in s3://{output.bucket} ({in_words(output.bytes_of(output.absent(root)))} not here)"
        for output in stage.in_bucket
    ]


def summary(plan: Plan) -> str:
    """`3 to run, 1 to restore, 21 unchanged (2 of them in the bucket).`"""
    away = sum(bool(stage.in_bucket) for stage in plan.stages)
    told = f" ({away} of them in the bucket)" if away else ""
    count = {action: sum(stage.action == action for stage in plan.stages) for action in ("run", "restore", "skip")}
    if not plan.to_do:
        return f"Nothing to do: all {count['skip']} stages are up to date{told}."
    parts = [f"{count['run']} to run", f"{count['restore']} to restore", f"{count['skip']} unchanged{told}"]
    return ", ".join(part for part in parts if not part.startswith("0 ")) + "."


def explain(stage: PlannedStage) -> list[str]:
    """The reasons of one stage in words, the telling ones first."""
    by_kind: dict[str, list[Reason]] = {}
    for reason in stage.reasons:
        by_kind.setdefault(reason.kind, []).append(reason)
    words = [f"{r.name} {_value(r.old)} -> {_value(r.new)}" for r in by_kind.get("param", [])]
    if len(words) > _MANY_PARAMETERS:
        words[_MANY_PARAMETERS:] = [f"{len(words) - _MANY_PARAMETERS} more parameters"]
    words += ["the command changed" for _ in by_kind.get("command", [])]
    words += _changed("code", by_kind.get("code", []))
    words += _changed("data", by_kind.get("data", []))
    words += _outputs(stage.stage, by_kind.get("output", []))
    upstream = [reason.name for reason in by_kind.get("upstream", [])]
    if upstream and not words:  # what changed here says more than what is above
        words.append("after " + _some(upstream))
    return words


def _outputs(stage: str, reasons: Sequence[Reason]) -> list[str]:
    words = []
    if any(r.name == stage and r.old is None for r in reasons):
        return ["never run"]
    missing = [r.name for r in reasons if r.new is None]
    edited = [r.name for r in reasons if r.new is not None]
    if missing:
        words.append(f"{_some(missing)} missing or incomplete")
    if edited:
        words.append(f"{_some(edited)} edited by hand")
    return words


def _changed(what: str, reasons: Sequence[Reason]) -> list[str]:
    if not reasons:
        return []
    new = "new" if all(reason.old is None for reason in reasons) else "changed"
    return [f"{what} {new}: {_some([reason.name for reason in reasons])}"]


def _some(names: Sequence[str]) -> str:
    if len(names) <= _MANY:
        return ", ".join(names)
    return f"{', '.join(names[:_MANY])} and {len(names) - _MANY} more"


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    text = (
        re.sub(r"e([+-]?)0*(\d)", r"e\1\2", repr(value)).replace("e+", "e") if isinstance(value, float) else str(value)
    )
    return text if len(text) <= 40 else text[:37] + "..."
