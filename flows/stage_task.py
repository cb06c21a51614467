"""The body of one task: a stage done by the runner, its output on the page, its outcome in journal and MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from flows.journal import StageState, stage_log
from flows.plan import PlannedStage, stage_fingerprint
from flows.session import Session, uses_model
from infra.errors import StageFailedError, StageStoppedError, TransientError
from infra.jobs import JobSpec, Outcome, Resource
from infra.settings import child_environment
from infra.spool import read_announcement

STATE_OF: dict[Outcome, StageState] = {
    Outcome.RAN: "ran",
    Outcome.RESTORED: "restored",
    Outcome.SKIPPED: "skipped",
}
# DVC says this after every stage; it is for somebody who types its commands.
NOISE = (
    "To track the changes with git",
    "To enable auto staging",
    "Use `dvc push`",
    "git add ",
    "dvc config core.autostage",
)


def is_transient(_task: object, _run: object, state: State[Any]) -> bool:
    """Only DVC's busy files are worth another attempt: a stage that failed would fail again."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def stage_work(session: Session, planned: PlannedStage, position: int) -> Callable[[], State[Any]]:
    """The function of the stage's task. One that stays as it is ends at once, so that the page shows the whole DAG."""

    def keep() -> State[Any]:
        session.journal.stage(planned.stage, state="skipped")
        _link(session, planned.stage, planned.fingerprint)
        return Completed(name="Cached", message="unchanged")

    def do() -> State[Any]:
        return _do(session, planned, position)

    return keep if planned.action == "skip" else do


def _do(session: Session, planned: PlannedStage, position: int) -> State[Any]:
    name, tracker = planned.stage, session.tracker
    model = uses_model(name) and planned.action == "run"  # what is restored needs no machine
    started = time.time()
    try:
        with session.slots.hold(uses_model=model, position=position):
            started = time.time()
            session.journal.stage(name, state="running", started=started)
            session.progress.started(name)
            outcome = _run(session, name)
    except StageFailedError as error:
        message = "\n".join(error.tail) or str(error)
        tracker.stage_ended(name, "FAILED", None)
        _ended(session, name, "failed", started, message)
        return Failed(message=f"{error}\n{message}")
    except StageStoppedError as error:
        tracker.stage_ended(name, "KILLED", None)
        if session.journal.entry(name).state == "running":
            _ended(session, name, "stopped", started)
        return Cancelled(message=str(error))
    except TransientError as error:
        session.journal.stage(name, state="waiting", message=str(error))
        session.progress.line(name, f"{error}; another attempt follows")
        raise
    if outcome is Outcome.RAN:
        _note_fingerprint(session, name)
        run_id = tracker.stage_ended(name, "FINISHED", lock_entry(session.root / "dvc.lock", name))
        run_id.add_done_callback(lambda done: session.journal.stage(name, mlflow_run=done.result()))
    else:
        _link(session, name, planned.fingerprint)
    _ended(session, name, STATE_OF[outcome], started)
    named = {Outcome.RESTORED: "Restored", Outcome.SKIPPED: "Cached"}.get(outcome, "Completed")
    return Completed(name=named, message=str(outcome))


def _run(session: Session, name: str) -> Outcome:
    """Let the runner do it; every line goes to the page, the terminal and the stage's log file."""
    logger = get_run_logger()
    log = stage_log(session.settings.log_dir, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    session.tracker.stage_started(name)
    spec = JobSpec(
        stage=name,
        root=session.root,
        environment=child_environment(session.settings, stage=name),
        resource=Resource(whole_machine=uses_model(name)),
    )
    with log.open("w", encoding="utf-8", buffering=1) as file:

        def on_line(line: str) -> None:
            if not line.strip().startswith(NOISE):
                file.write(line + "\n")
                logger.info(line)
                session.progress.line(name, line)

        return session.runner.wait(session.runner.submit(spec), on_line).outcome


def _ended(session: Session, name: str, state: StageState, started: float, message: str = "") -> None:
    seconds = time.time() - started
    session.journal.stage(name, state=state, seconds=seconds, message=message)
    session.progress.ended(name, state, seconds)


def _note_fingerprint(session: Session, name: str) -> None:
    assert session.settings.parent_run is not None
    announced = read_announcement(session.settings, session.settings.parent_run, name)
    if announced is not None:
        session.journal.stage(name, fingerprint=announced.fingerprint)


def _link(session: Session, name: str, fingerprint: str | None) -> None:
    """Link the parent run to the run that made this stage's outputs."""
    if fingerprint is None:  # the planner could not know its inputs; now they are on disk
        fingerprint, _ = stage_fingerprint(session.root, name, session.params)
    session.journal.stage(name, fingerprint=fingerprint)
    run_id = session.tracker.link_reused(name, fingerprint)
    run_id.add_done_callback(lambda done: session.journal.stage(name, mlflow_run=done.result()))


def lock_entry(path: Path, stage: str) -> dict[str, Any] | None:
    """One stage's entry of dvc.lock, without parsing the rest; None if it is not there (or DVC is just writing it)."""
    if not path.is_file():
        return None
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  ") and not line.startswith("   "):
            if lines:
                break
            if line.strip().strip("'\"").rstrip(":").strip("'\"") == stage:
                lines.append(line)
        elif lines:
            lines.append(line)
    try:
        entries = yaml.safe_load("\n".join(lines)) or {}
    except yaml.YAMLError:
        return None
    return next(iter(entries.values()), None)
