"""`longfuse jobs`: its commands and flags. The work is in flows/jobs.py, imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

jobs_app = typer.Typer(no_args_is_help=True, help="Runs on EC2: list, show, logs, cancel, adopt, reap, pull, cost.")
Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run; `longfuse jobs list` has them.")]


@jobs_app.callback()
def jobs_where(
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Runs of the simulated cloud of a `longfuse run --on ec2 --simulate`.")
    ] = False,
) -> None:
    """Which cloud is meant."""
    if simulate:
        from flows.jobs import mean_the_simulated_cloud
        from infra.settings import load_settings

        mean_the_simulated_cloud(load_settings(Path.cwd()))


@jobs_app.command("list")
def jobs_list() -> None:
    """Every run in the bucket: stage, where it stands, attempts, cost."""
    from flows.jobs import list_jobs

    print("\n".join(list_jobs()))


@jobs_app.command("show")
def jobs_show(run_id: Run) -> None:
    """One run: its attempts, instances, last heartbeat, cost."""
    from flows.jobs import show_job

    print("\n".join(show_job(run_id)))


@jobs_app.command("logs")
def jobs_logs(
    run_id: Run, follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run is closed.")] = False
) -> None:
    """What a run printed, over all attempts."""
    from flows.jobs import job_logs

    for line in job_logs(run_id, follow=follow):
        print(line, flush=True)


@jobs_app.command("cancel")
def jobs_cancel(run_id: Run) -> None:
    """Ask for the end of a run and see to it; its checkpoints stay."""
    from flows.jobs import cancel_job

    print("\n".join(cancel_job(run_id)))


@jobs_app.command("adopt")
def jobs_adopt(run_id: Run) -> None:
    """Keep a run whose controller died, until it is closed."""
    from flows.jobs import adopt_job

    for line in adopt_job(run_id):
        print(line, flush=True)


@jobs_app.command("reap")
def jobs_reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be ended.")] = False,
) -> None:
    """End instances that are past their deadline or whose run is closed."""
    from flows.jobs import reap_instances

    reap_instances(dry_run=dry_run, say=print)


@jobs_app.command("pull")
def jobs_pull(
    what: Annotated[str, typer.Argument(metavar="STAGE", help="A stage, a group (rl), or a path in outputs/.")],
) -> None:
    """Fetch outputs that a job made and that lie in the bucket only."""
    from flows.bucket_data import pull_from_bucket
    from infra.settings import child_environment, find_root, load_settings

    settings = load_settings(find_root())
    pull_from_bucket(settings.root, what, child_environment(settings), print)


@jobs_app.command("cost")
def jobs_cost() -> None:
    """What runs have cost, about, and what is reserved for those under way."""
    from flows.jobs import job_costs

    print("\n".join(job_costs()))
