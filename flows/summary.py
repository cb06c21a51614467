"""A run in words: the message at its end, and what `longfuse status` says of it."""

from __future__ import annotations

import time
from pathlib import Path

from flows.journal import DONE, RunRecord
from flows.progress import seconds_text

TAIL_SHOWN = 15


def final_message(record: RunRecord, log_dir: Path) -> list[str]:
    """What was done, what failed and why, what was not run, and how to go on."""
    done = record.of_state("ran", "restored")
    lines: list[str] = []
    for entry in record.of_state("failed"):
        lines.append(f"Stage {entry.stage} failed after {seconds_text(entry.seconds or 0.0)}:")
        lines += [f"  {line}" for line in entry.message.splitlines()[-TAIL_SHOWN:]]
        lines.append(f"  Its whole output: {log_dir / 'stages' / (entry.stage + '.log')}")
    stopped = record.of_state("stopped")
    if stopped:
        lines.append("Stopped: " + _names([entry.stage for entry in stopped]) + ".")
    if done:
        lines.append(f"Finished in this run: {_names([entry.stage for entry in done])}.")
    not_run = record.of_state("not_run", "waiting")
    if not_run:
        lines.append(f"Not run: {_names([entry.stage for entry in not_run])}.")
    if record.state == "finished":
        seconds = (record.ended or time.time()) - record.started
        count = "1 stage is" if len(record.stages) == 1 else f"All {len(record.stages)} stages are"
        lines.append(f"{count} up to date ({seconds_text(seconds)}).")
        if any(entry.stage == "report" for entry in done):
            lines.append("Report: outputs/report/data/report.html. Prefect and MLflow pages: `longfuse ui`.")
    else:
        lines.append("Nothing that is finished is lost: the next `longfuse run` continues from here.")
    return lines


def _names(names: list[str]) -> str:
    return ", ".join(names) if names else "nothing"


def status_lines(record: RunRecord, *, alive: bool, last_lines: dict[str, str]) -> list[str]:
    """The latest run for `longfuse status`."""
    total, done = len(record.stages), len(record.of_state(*DONE))
    ago = seconds_text(time.time() - record.started)
    if record.state == "running" and alive:
        lines = [f"Running: `{record.command}` (process {record.pid}) for {ago}, {done} of {total} stages done."]
        for entry in record.of_state("running"):
            elapsed = seconds_text(time.time() - (entry.started or time.time()))
            lines.append(f"  {entry.stage:<34}{elapsed:>12}  {last_lines.get(entry.stage, '')}")
        waiting = record.of_state("waiting")
        lines += [f"  waiting: {_names([entry.stage for entry in waiting])}"] if waiting else []
        lines += [f"  page: {record.page}"] if record.page else []
    elif record.state == "running":
        lines = [
            f"The latest run (`{record.command}`, begun {ago} ago) died with its process; {done} of {total} stages were done."
        ]
    else:
        lines = [f"Latest run: `{record.command}`, {record.state}, begun {ago} ago, {done} of {total} stages done."]
    for entry in record.of_state("failed"):
        lines.append(f"  {entry.stage} failed:")
        lines += [f"    {line}" for line in entry.message.splitlines()[-TAIL_SHOWN:]]
    return lines
