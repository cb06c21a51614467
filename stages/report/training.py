"""How training went, stage by stage: first and last values of the metrics that each stage recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from stages.report.load import TRAINED, Metrics
from stages.report.tables import Table, number, words

_TASK_REWARD = re.compile(r"reward/([^/]+)/mean")


def task_keys(metrics: Mapping[str, Metrics]) -> dict[str, str]:
    """Metric key -> label of the rewards per task type, in order of appearance by name."""
    keys = sorted({key for steps in metrics.values() for step in steps for key in step if _TASK_REWARD.fullmatch(key)})
    return {key: words(key.split("/")[1]) for key in keys}


def first_to_last(steps: Sequence[Mapping[str, float]], key: str) -> str:
    """`0.12 → 0.75`; one value if there was one update, a dash if the metric was never recorded."""
    values = [step[key] for step in steps if key in step]
    if not values:
        return "–"
    ends = [number(float(f"{value:.4g}")) for value in (values[0], values[-1])]
    return ends[0] if len(values) == 1 else " → ".join(ends)


def training_table(metrics: Mapping[str, Metrics], links: Mapping[str, str]) -> Table:
    """One row per training stage."""
    rows = []
    for stage in TRAINED:
        steps = metrics.get(stage, [])
        loss = min((key for step in steps for key in step if key.startswith("loss/")), default="")
        masked = [step["aepo/masking"] for step in steps if "aepo/masking" in step]
        rows.append(
            (
                stage,
                number(len(steps)),
                first_to_last(steps, loss),
                first_to_last(steps, "reward/mean"),
                first_to_last(steps, "entropy/seq_mean"),
                number(sum(value > 0 for value in masked)) if masked else "–",
                first_to_last(steps, "len/response/mean"),
                first_to_last(steps, "len/truncated_frac"),
            )
        )
    header = ("stage", "updates", "loss", "reward", "entropy, nats", "updates masked", "response tokens", "truncated")
    return Table(
        "Stage by stage",
        header,
        tuple(rows),
        "First and last update. A stage without updates passed its model on unchanged.",
        row_links=tuple(links[f"metrics_{stage}"] for stage in TRAINED),
    )
