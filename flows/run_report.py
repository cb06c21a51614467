"""`.state/report/`: time, cost and lineage of a run, as Markdown and one HTML page. Never a cached output: it changes with every run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from flows.journal import RunRecord
from flows.lineage import run_record, whole_lineage
from flows.progress import seconds_text
from stages.common.errors import UserError
from stages.common.storage import write_text

COST_KEY = "cost_usd"  # in run.json, written by a runner that pays for machines


@dataclass(frozen=True)
class Section:
    """A heading, a table, and a sentence under it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def write_run_report(root: Path, state_dir: Path, record: RunRecord) -> list[Path]:
    """Write run.md and run.html; returns their paths."""
    folder = state_dir / "report"
    title, facts, sections = run_report(root, record)
    write_text(folder / "run.md", _markdown(title, facts, sections))
    write_text(folder / "run.html", _html(title, facts, sections))
    return [folder / "run.md", folder / "run.html"]


def run_report(root: Path, record: RunRecord) -> tuple[str, list[str], list[Section]]:
    """Title, facts and sections; what dvc.lock does not know yet is left out, never an error."""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
    seconds = (record.ended or time.time()) - record.started
    facts = [
        f"command: {record.command}",
        f"profile: {record.profile or '-'}",
        f"commit: {record.commit}" + (" with uncommitted changes" if record.dirty else ""),
        f"{record.state} after {seconds_text(seconds)}",
        f"MLflow run: {record.mlflow_run or '-'}",
    ]
    if record.page:
        facts.append(f"Prefect: {record.page}")
    runs = {e.stage: run_record(root, e.stage, e.fingerprint) if e.fingerprint else None for e in record.stages}
    return f"Run of {started}", facts, [_times(record, runs), _cost(record, runs), *_lineage(root, record)]


def _times(record: RunRecord, runs: Mapping[str, Mapping[str, Any] | None]) -> Section:
    rows = []
    for entry in record.stages:
        run = runs[entry.stage] or {}
        rows.append(
            (
                entry.stage,
                entry.state.replace("_", " "),
                "" if entry.seconds is None else f"{entry.seconds:.1f}",
                f"{run['seconds']:.1f}" if "seconds" in run else "",
                f"{run['peak_memory_mb']:.0f}" if "peak_memory_mb" in run else "",
                (entry.fingerprint or "")[:12],
                entry.mlflow_run or "",
            )
        )
    header = ("stage", "action", "seconds", "seconds when made", "peak memory, MB", "fingerprint", "MLflow run")
    note = "Seconds: in this run. Seconds when made: of the run whose output is used, which may be an earlier one."
    return Section("Time", header, tuple(rows), note)


def _cost(record: RunRecord, runs: Mapping[str, Mapping[str, Any] | None]) -> Section:
    """Machine hours by machine, and dollars where a runner recorded them."""
    hours: dict[str, float] = {}
    dollars: dict[str, float] = {}
    for entry in record.of_state("ran"):
        run = runs[entry.stage] or {}
        name = _machine(run.get("machine") or {})
        hours[name] = hours.get(name, 0.0) + float(run.get("seconds") or entry.seconds or 0.0) / 3600
        if COST_KEY in run:
            dollars[name] = dollars.get(name, 0.0) + float(run[COST_KEY])
    rows = tuple(
        (name, f"{value:.3f}", f"{dollars[name]:.2f}" if name in dollars else "not charged")
        for name, value in hours.items()
    )
    note = f"Total: {sum(hours.values()):.3f} stage hours, {sum(dollars.values()):.2f} USD charged."
    if not rows:
        note = "No stage ran: nothing was spent. " + note
    return Section("Cost of what ran", ("machine", "stage hours", "USD"), rows, note)


def _machine(machine: Mapping[str, Any]) -> str:
    gpus = machine.get("gpus") or []
    parts = [str(machine.get("cpu") or "this machine"), f"{machine.get('cpus', '?')} CPUs"]
    return ", ".join([*parts, *([f"{len(gpus)} x {gpus[0]}"] if gpus else [])])


def _lineage(root: Path, record: RunRecord) -> list[Section]:
    """Every stage of the run with what it read and made, by dvc.lock."""
    shown = {entry.stage for entry in record.stages}
    try:
        known = [entry for entry in whole_lineage(root) if entry.stage in shown]
    except UserError:  # nothing has run yet
        known = []
    if not known:
        return []
    rows = tuple(
        (
            entry.stage,
            ", ".join(f"{dep.made_by or dep.path}" for dep in entry.dependencies) or "-",
            ", ".join(f"{path} {md5[:12]}" for path, md5 in entry.outputs.items()),
            str((entry.run or {}).get("commit", ""))[:12],
            str((entry.run or {}).get("mlflow_run") or ""),
        )
        for entry in known
    )
    note = "`longfuse lineage STAGE` shows parameters and whole md5s."
    return [Section("Lineage", ("stage", "made from", "outputs, md5", "commit", "MLflow run"), rows, note)]


def _markdown(title: str, facts: list[str], sections: list[Section]) -> str:
    blocks = [f"# {title}", "\n".join(f"- {fact}" for fact in facts)]
    for section in sections:
        blocks.append(f"## {section.title}")
        lines = [section.header, ("---",) * len(section.header), *section.rows]
        blocks.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
        blocks += [section.note] if section.note else []
    return "\n\n".join(blocks) + "\n"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { margin: 0 auto; max-width: 71rem; padding: 2rem 1.25rem; color: #1d2733; background: #fff; color-scheme: light;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e1e5ea; overflow-wrap: anywhere; }
th { color: #5b6675; white-space: nowrap; } .note { color: #5b6675; font-size: .875rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<ul>
{% for fact in facts %}
<li>{{ fact }}</li>
{% endfor %}
</ul>
{% for section in sections %}
<h2>{{ section.title }}</h2>
<div class="scroll"><table>
<thead><tr>{% for cell in section.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in section.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if section.note %}<p class="note">{{ section.note }}</p>{% endif %}
{% endfor %}
</body>
</html>
"""


def _html(title: str, facts: list[str], sections: list[Section]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(title=title, facts=facts, sections=sections)
