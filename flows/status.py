"""What `longfuse status` says: the latest run, then what is up to date. Reads files only; never `dvc status`."""

from __future__ import annotations

from flows.journal import last_line, read_journal, stage_log
from flows.plan import make_plan
from flows.plan_table import summary
from flows.summary import status_lines
from infra.lock import current_holder
from infra.servers import mlflow_spec, prefect_spec, running_server
from infra.settings import Settings


def status_report(settings: Settings) -> list[str]:
    """The lines of the command."""
    record = read_journal(settings.state_dir)
    holder = current_holder(settings.state_dir)
    running = holder is not None and record is not None and record.pid == holder.pid
    lines: list[str] = []
    if holder is not None and not running:
        lines.append(f"A run is starting: `{holder.command}` (process {holder.pid}).")
    if record is None:
        lines.append("No run yet in this tree: `longfuse run` starts one, `longfuse plan` says what it would do.")
    else:
        names = [entry.stage for entry in record.of_state("running")]
        tails = {name: last_line(stage_log(settings.log_dir, name)) for name in names}
        lines += status_lines(record, alive=running, last_lines=tails)
    if holder is None:  # during a run outputs are half written, and the journal knows better
        plan = make_plan(settings.root)
        lines.append(f"Now: {summary(plan)}")
    for spec in (prefect_spec(settings), mlflow_spec(settings)):
        server = running_server(spec)
        if server is not None:
            lines.append(f"{spec.name} page: {server.address}")
    return lines
