"""A pipeline run from the first check to the last word: lock, plan, servers, flow, exit code.

The order saves time: while a new Prefect server boots (3 s), Prefect and then MLflow are imported and MLflow's store is
opened. If nothing is to be done, nothing is started or imported.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from flows.journal import Journal, RunRecord, planned_entries
from flows.on_ec2 import open_runner
from flows.params import load_params
from flows.plan import Plan
from flows.plan_table import render_plan, summary
from flows.progress import Progress
from flows.session import ReadParams, Request, Session, check_before_work, prepare
from flows.slots import Slots
from flows.summary import final_message
from infra.lock import run_lock
from infra.provenance import installed_packages, source_state
from infra.servers import hold, prefect_spec
from infra.settings import TELEMETRY_OFF, Settings, export, find_root, load_settings, prefect_environment
from infra.tracking import PipelineTracker

EXIT_FAILED = 1
STORE_SECONDS = 120.0


class Terminated(BaseException):
    """SIGTERM, outside of the flow; Prefect raises its own inside and then lets us see ours."""


def launch(
    settings: Settings, request: Request, *, command: str, progress: Progress, read: ReadParams = load_params
) -> int:
    """`longfuse run`. Returns the exit code: 0 done (or nothing to do), 1 a stage failed, 130 and 143 interrupted.

    Raises UserError and InfraError before any work.
    """
    try:
        with _signals(), run_lock(settings.state_dir, command):
            return _launch(settings, request, command, progress, read)
    except KeyboardInterrupt:
        exit_code = 130
    except Terminated:
        exit_code = 143
    progress.say("Stopped before the first stage; nothing was changed.")
    return exit_code


def _launch(settings: Settings, request: Request, command: str, progress: Progress, read: ReadParams) -> int:
    params, plan = prepare(settings, request, read, progress.say)
    if not plan.to_do:
        for line in [*(f"warning: {warning}" for warning in plan.warnings), summary(plan)]:
            progress.say(line)
        return 0
    for line in render_plan(plan):
        progress.say(line)
    for warning in check_before_work(settings):
        progress.say(f"warning: {warning}")
    with (
        _warnings_shown(progress),
        _prefect(settings, progress) as (connected, wait_for_prefect),
        _session(connected, request, params, plan, command, progress, wait_for_prefect) as session,
    ):
        return _run(session)


def _run(session: Session) -> int:
    """The flow in this process, then the last word."""
    from prefect.exceptions import TerminationSignal

    from flows.pipeline import make_flow

    request, exit_code = session.request, EXIT_FAILED
    try:
        state = make_flow(session)(
            profile=session.profile,
            set=list(request.sets),
            only=request.only,
            from_stage=request.from_stage,
            jobs=request.jobs,
            return_state=True,
        )
        record = session.journal.record
        if record.state == "finished":
            exit_code = 0
        elif not record.of_state("failed", "stopped"):
            session.progress.say(f"The flow itself failed: {state.message}")
    except KeyboardInterrupt:
        exit_code = 130
    except (TerminationSignal, Terminated):
        exit_code = 143
    if session.journal.record.state == "running":
        session.journal.end("stopped")
    for line in final_message(session.journal.record, session.settings.log_dir):
        session.progress.say(line)
    return exit_code


def run_deployed(request: Request, drive: Callable[[Session], Any]) -> Any:
    """The body of the deployed flow, in the process that Prefect started for it; returns the flow's state."""
    from prefect import get_run_logger
    from prefect.states import Completed

    settings = load_settings(find_root())
    command = "longfuse deploy --serve"
    with run_lock(settings.state_dir, command):
        params, plan = prepare(settings, request)
        if not plan.to_do:
            get_run_logger().info(summary(plan))
            return Completed(message=summary(plan))
        check_before_work(settings)
        with _session(settings, request, params, plan, command, Progress(), lambda: None) as session:
            return drive(session)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM as an exception; SIGINT too, even where a background shell job ignores it (the lock's message names it)."""

    def terminate(_number: int, _frame: types.FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


@contextmanager
def _warnings_shown(progress: Progress) -> Iterator[None]:
    """Warnings of ours among the lines of the run; Prefect takes over the root logger."""

    class Say(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.say(f"warning: {record.getMessage()}")

    handler = Say(level=logging.WARNING)
    ours = [logging.getLogger(name) for name in ("infra", "flows")]
    for logger in ours:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in ours:
            logger.removeHandler(handler)


@contextmanager
def _prefect(settings: Settings, progress: Progress) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Settings with the address of a Prefect server, and what waits for its first answer; ours is let go at the end."""
    # What Prefect would print between our lines is on its page.
    export({"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", **TELEMETRY_OFF})
    with ExitStack() as stack:
        wait: Callable[[], None] = lambda: None  # noqa: E731
        if settings.prefect_api_url is None:
            server = stack.enter_context(hold(prefect_spec(settings)))
            wait = server.wait_until_healthy
            settings = settings.model_copy(update={"prefect_api_url": f"{server.address}/api"})
            export(prefect_environment(settings, settings.prefect_api_url))
            progress.say(f"Prefect: {server.address}")
        import flows.pipeline  # noqa: F401 - a second, spent while the server boots

        yield settings, wait


@contextmanager
def _session(
    settings: Settings,
    request: Request,
    params: Mapping[str, Any],
    plan: Plan,
    command: str,
    progress: Progress,
    wait_for_prefect: Callable[[], None],
) -> Iterator[Session]:
    """The MLflow parent run, the journal and the runner around one run; all are ended, whatever happens."""
    source = source_state(settings.root)
    profile = str(params.get("profile", ""))
    tags = {
        "mlflow.source.git.commit": source.commit,
        "git.commit": source.commit,
        "git.dirty": str(source.dirty).lower(),
        "profile": profile,
    }
    tracker = PipelineTracker(settings)
    opened = tracker.start(f"{profile or settings.root.name} {time.strftime('%Y-%m-%d %H:%M:%S')}", tags, params)
    wait_for_prefect()
    parent_run = opened.result(STORE_SECONDS)
    for name in ("params.yaml", "dvc.yaml"):
        tracker.log_file(settings.root / name)
    if source.diff:
        tracker.log_text(source.diff, "uncommitted.diff")
    tracker.log_text(installed_packages(), "pip-freeze.txt")
    record = RunRecord(
        command=command,
        pid=os.getpid(),
        profile=profile,
        started=time.time(),
        mlflow_run=parent_run,
        commit=source.commit,
        dirty=source.dirty,
        stages=planned_entries(plan),
    )
    settings = settings.model_copy(update={"parent_run": parent_run})
    places = ExitStack()
    session = Session(
        settings=settings,
        request=request,
        params=params,
        plan=plan,
        runner=places.enter_context(open_runner(settings, request, params, plan, progress.say, tracker.tag_stage)),
        tracker=tracker,
        journal=Journal(settings.state_dir, record),
        progress=progress,
        slots=Slots(request.jobs),
    )
    try:
        with progress:
            yield session
    finally:
        session.runner.cancel_all()
        places.close()
        if session.journal.record.state == "running":
            session.journal.end("stopped")
        ended = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
        tracker.end(ended[session.journal.record.state])
