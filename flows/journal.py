"""What the latest pipeline run did and does: `.state/run.json`, which `longfuse status` reads while it goes on.

Never `dvc status`: DVC refuses that while a stage runs.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.plan import Plan
from stages.common.storage import write_text

logger = logging.getLogger(__name__)
StageState = Literal["waiting", "running", "ran", "restored", "skipped", "failed", "stopped", "not_run"]
RunState = Literal["running", "finished", "failed", "stopped"]
DONE: frozenset[StageState] = frozenset({"ran", "restored", "skipped"})


class StageEntry(BaseModel):
    """One stage of the run. `planned` is the planner's action, `message` the cause of a failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    planned: Literal["run", "skip", "restore"]
    state: StageState = "waiting"
    fingerprint: str | None = None
    started: float | None = None
    seconds: float | None = None
    message: str = ""
    mlflow_run: str | None = None


class RunRecord(BaseModel):
    """One pipeline run. Times are seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    pid: int
    profile: str
    started: float
    ended: float | None = None
    state: RunState = "running"
    page: str | None = None
    mlflow_run: str | None = None
    commit: str = "unknown"
    dirty: bool = False
    stages: tuple[StageEntry, ...] = ()

    def of_state(self, *states: StageState) -> list[StageEntry]:
        """The stages in one of these states, in plan order."""
        return [entry for entry in self.stages if entry.state in states]


class Journal:
    """The record of the current run; every change is on disk at once. Safe to use from any thread."""

    def __init__(self, state_dir: Path, record: RunRecord) -> None:
        self._path = journal_path(state_dir)
        self._record = record
        self._guard = threading.Lock()
        self._write()

    @property
    def record(self) -> RunRecord:
        return self._record

    def update(self, **changes: Any) -> None:
        """Change fields of the run."""
        with self._guard:
            self._record = self._record.model_copy(update=changes)
            self._write()

    def stage(self, name: str, **changes: Any) -> None:
        """Change fields of one stage."""
        with self._guard:
            entries = tuple(e.model_copy(update=changes) if e.stage == name else e for e in self._record.stages)
            self._record = self._record.model_copy(update={"stages": entries})
            self._write()

    def entry(self, name: str) -> StageEntry:
        """One stage as it stands."""
        return next(entry for entry in self._record.stages if entry.stage == name)

    def end(self, state: RunState) -> None:
        """The run is over: what waits did not run, what still counts as running was stopped."""
        over: dict[str, StageState] = {"waiting": "not_run", "running": "stopped"}
        with self._guard:
            entries = tuple(e.model_copy(update={"state": over.get(e.state, e.state)}) for e in self._record.stages)
            self._record = self._record.model_copy(update={"stages": entries, "state": state, "ended": time.time()})
            self._write()

    def _write(self) -> None:
        try:
            write_text(self._path, self._record.model_dump_json(indent=1) + "\n")
        except OSError as error:  # a full disk: the run must still be able to end and say so
            logger.warning("%s cannot be written: %s", self._path, error)


def planned_entries(plan: Plan) -> tuple[StageEntry, ...]:
    """The stages of a plan, none begun."""
    return tuple(StageEntry(stage=s.stage, planned=s.action, fingerprint=s.fingerprint) for s in plan.stages)


def journal_path(state_dir: Path) -> Path:
    """Where the latest run is recorded."""
    return state_dir / "run.json"


def read_journal(state_dir: Path) -> RunRecord | None:
    """The latest run; None if there was none, or another version of longfuse wrote it."""
    try:
        return RunRecord.model_validate_json(journal_path(state_dir).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def stage_log(log_dir: Path, stage: str) -> Path:
    """The whole output of a stage's latest attempt."""
    return log_dir / "stages" / f"{stage}.log"


def last_line(path: Path) -> str:
    """The last line of a log, "" if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""
