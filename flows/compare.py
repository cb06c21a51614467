"""Two MLflow runs side by side: parameters that differ, metrics and their difference (`longfuse compare`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.common.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from infra.settings import Settings

_NEWEST = "newest"


@dataclass(frozen=True)
class Comparison:
    """Two runs. Values are (left, right), None where a run has none."""

    names: tuple[str, str]
    run_ids: tuple[str, str]
    params: dict[str, tuple[str | None, str | None]]
    metrics: dict[str, tuple[float | None, float | None]]

    def differing(self) -> Comparison:
        """Without what is equal."""
        return Comparison(
            self.names,
            self.run_ids,
            {key: pair for key, pair in self.params.items() if pair[0] != pair[1]},
            {key: pair for key, pair in self.metrics.items() if pair[0] != pair[1]},
        )

    def as_json(self) -> str:
        """For programs."""
        return json.dumps(
            {"runs": self.run_ids, "names": self.names, "params": self.params, "metrics": self.metrics}, indent=1
        )


def compare(settings: Settings, left: str, right: str) -> Comparison:
    """Compare two runs, each given by id, the beginning of an id, a run's name, or newest, newest~1, newest~2, ...

    `newest` counts pipeline runs; ids may also be those of stages. Raises InputError if there is no such run or several.
    """
    from infra.mlflow_store import open_store

    client, experiment = open_store(settings)
    runs = [_find(client, experiment, reference) for reference in (left, right)]
    a, b = (run.data for run in runs)
    return Comparison(
        names=(str(runs[0].info.run_name), str(runs[1].info.run_name)),
        run_ids=(runs[0].info.run_id, runs[1].info.run_id),
        params={key: (a.params.get(key), b.params.get(key)) for key in sorted(a.params.keys() | b.params.keys())},
        metrics={key: (a.metrics.get(key), b.metrics.get(key)) for key in sorted(a.metrics.keys() | b.metrics.keys())},
    )


def _find(client: MlflowClient, experiment: str, reference: str) -> Run:
    if reference.partition("~")[0] == _NEWEST:
        return _newest(client, experiment, reference)
    found = _all(client, experiment, "")
    fitting = [run for run in found if run.info.run_id == reference or run.info.run_name == reference]
    fitting = fitting or [run for run in found if len(reference) >= 4 and run.info.run_id.startswith(reference)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(
            f"there is no run {reference!r} in this MLflow store. `longfuse ui` shows them; or give `newest`."
        )
    ids = ", ".join(run.info.run_id[:12] for run in fitting[:5])
    raise InputError(f"{len(fitting)} runs fit {reference!r}: {ids}. Give more of the id.")


def _newest(client: MlflowClient, experiment: str, reference: str) -> Run:
    back = reference.partition("~")[2] or "0"
    if not back.isdecimal():
        raise InputError(f"{reference!r}: write newest, newest~1, newest~2, ...")
    found = _all(client, experiment, "tags.\"longfuse.kind\" = 'pipeline'")
    if int(back) >= len(found):
        raise InputError(f"{reference!r}: this MLflow store holds {len(found)} pipeline runs.")
    return found[int(back)]


def _all(client: MlflowClient, experiment: str, where: str) -> list[Run]:
    """Newest first."""
    runs: list[Run] = []
    token: Any = None
    while True:
        page = client.search_runs([experiment], where, order_by=["attributes.start_time DESC"], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def comparison_lines(found: Comparison, *, everything: bool) -> list[str]:
    """For people: what differs, or everything."""
    shown = found if everything else found.differing()
    lines = [f"left   {found.names[0]}  {found.run_ids[0]}", f"right  {found.names[1]}  {found.run_ids[1]}", ""]
    for title, rows in (
        ("parameters", [(key, a or "-", b or "-", "") for key, (a, b) in shown.params.items()]),
        ("metrics", [(key, _number(a), _number(b), _change(a, b)) for key, (a, b) in shown.metrics.items()]),
    ):
        total = len(found.params) if title == "parameters" else len(found.metrics)
        if not rows:
            lines.append(f"{title}: all {total} equal")
            continue
        lines.append(f"{title}: {len(rows)} of {total}" + ("" if everything else " differ"))
        widths = [max(len(str(row[i])[:60]) for row in rows) for i in range(3)]
        for key, a, b, change in rows:
            lines.append(f"  {key[:60]:<{widths[0]}}  {a[:60]:>{widths[1]}}  {b[:60]:>{widths[2]}}  {change}".rstrip())
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _change(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{b - a:+.4g}"
