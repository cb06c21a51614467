"""The MLflow side of a pipeline run: a parent run, a child run per stage that really ran, links to those that did not.

One thread makes every call to MLflow, from a queue: the flow never waits for it while stages run, its import (a
second) is off the critical path, and an error is logged once and fails nothing. What stages leave on disk for it is
described in `infra.spool`.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from infra.mlflow_runs import Child, MlflowRuns
from infra.records import MAX_ARTIFACT_BYTES
from infra.registry import FinalModel, register
from infra.settings import Settings
from infra.spool import tracking_dir

logger = logging.getLogger(__name__)


class PipelineTracker:
    """Everything that one pipeline run sends to MLflow. Methods return at once unless they say otherwise."""

    def __init__(self, settings: Settings, interval_seconds: float = 2.0) -> None:
        self._settings = settings
        self._interval_seconds = interval_seconds
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._children: dict[str, Child] = {}
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    # --- the run

    def start(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Future[str]:
        """Open the store and the parent run; the future gives its id, or raises InfraError if there is no store."""
        opened: Future[str] = Future()

        def open_run() -> None:
            try:
                self._runs = MlflowRuns(self._settings, name, tags)
            except BaseException as error:  # handed to the caller, who decides  # noqa: BLE001
                opened.set_exception(error)
                return
            # Its folder lets the next run of this tree close this one, should it die.
            tracking_dir(self._settings, self._runs.parent).mkdir(parents=True, exist_ok=True)
            opened.set_result(self._runs.parent)
            self._close_dead_runs()
            self._quietly(lambda: self._runs.log_params(self._runs.parent, params))

        self._queue.put(open_run)
        self._thread.start()
        return opened

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the parent; children started later get them too."""
        self._later(lambda: self._runs.tag(tags))

    def log_text(self, text: str, name: str) -> None:
        """An artifact of the parent."""
        self._later(lambda: self._runs.client.log_text(self._runs.parent, text, name))

    def log_file(self, path: Path) -> None:
        """A small file as an artifact of the parent; one that does not exist is passed over."""
        if path.is_file() and path.stat().st_size < MAX_ARTIFACT_BYTES:
            self._later(lambda: self._runs.client.log_artifact(self._runs.parent, str(path)))

    def register(self, model: FinalModel) -> None:
        """The final model as a version in the registry, source in the parent run."""
        self._later(lambda: register(self._runs.client, self._runs.parent, model))

    def flush(self, timeout_seconds: float) -> None:
        """Wait until all that was asked for so far is done, with a bound."""
        done = threading.Event()
        self._queue.put(done.set)
        done.wait(timeout_seconds)

    def end(self, status: str, timeout_seconds: float = 60.0) -> None:
        """End the parent (FINISHED, FAILED or KILLED) and wait until all is sent, with a bound."""

        def close() -> None:
            self._runs.client.set_terminated(self._runs.parent, status)
            shutil.rmtree(tracking_dir(self._settings, self._runs.parent), ignore_errors=True)

        for stage in list(self._children):
            self.stage_ended(stage, "KILLED", None)
        self._later(close)
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            logger.warning("MLflow took longer than %.0f s: metrics that were not sent stay in .state", timeout_seconds)

    # --- stages

    def stage_started(self, stage: str) -> None:
        """Watch for the stage's announcement and send its metrics and trajectories as they come."""
        self._children[stage] = Child(stage=stage)

    def tag_stage(self, stage: str, tags: Mapping[str, str]) -> None:
        """Tags of the stage's run, once it has announced itself; before `stage_ended`."""

        def set_tags() -> None:
            child = self._children.get(stage)
            if child is not None:
                self._runs.forward(child)
                if child.run_id is not None:
                    for key, value in tags.items():
                        self._runs.client.set_tag(child.run_id, key, value)

        self._later(set_tags)

    def stage_ended(self, stage: str, status: str, lock_entry: Mapping[str, Any] | None) -> Future[str | None]:
        """Send the rest and end the child run; the future gives its id, None if the stage never really started.

        lock_entry: the stage's part of dvc.lock, for the pointers to its outputs.
        """
        ended: Future[str | None] = Future()

        def finish() -> None:
            child = self._children.pop(stage, None)
            if child is not None:
                self._quietly(lambda: self._runs.forward(child))
                if child.run_id is not None:
                    self._quietly(lambda: self._runs.finish(child, status, lock_entry))
                    if child.trajectories is not None:
                        self._quietly(child.trajectories.finish)
            ended.set_result(child.run_id if child is not None else None)

        self._queue.put(finish)
        return ended

    def link_reused(self, stage: str, fingerprint: str | None) -> Future[str | None]:
        """Tag the parent with the run that made a skipped or restored stage, and copy its headline metrics.

        The future gives that run's id; None if no run of this store made it.
        """
        linked: Future[str | None] = Future()

        def link() -> None:
            found: list[str | None] = []
            self._children.pop(stage, None)
            if fingerprint is not None:
                self._quietly(lambda: found.append(self._runs.link(stage, fingerprint)))
            linked.set_result(found[0] if found else None)

        self._queue.put(link)
        return linked

    # --- in the thread

    def _work(self) -> None:
        due = time.monotonic()
        while True:
            try:
                task = self._queue.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                task = _nothing
            if task is None:
                return
            task()
            if time.monotonic() >= due:
                for child in list(self._children.values()):
                    self._quietly(lambda child=child: self._runs.forward(child))  # type: ignore[misc]
                due = time.monotonic() + self._interval_seconds

    def _later(self, action: Callable[[], object]) -> None:
        self._queue.put(lambda: self._quietly(action))

    def _quietly(self, action: Callable[[], object]) -> None:
        """Do it; an error is logged, the first one as a warning. Tracking never fails work that has started."""
        try:
            action()
        except Exception as error:  # sqlalchemy, requests and mlflow errors have no common root  # noqa: BLE001
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            logger.log(level, "MLflow: %s. The run goes on; what could not be sent is missing there.", error)

    def _close_dead_runs(self) -> None:
        """Runs of this tree that died with their process: it holds one run at a time, and that is ours."""
        for folder in (self._settings.state_dir / "tracking").glob("*"):
            if folder.name != self._runs.parent:
                self._quietly(lambda folder=folder: self._runs.close_dead(folder.name))  # type: ignore[misc]
                shutil.rmtree(folder, ignore_errors=True)


def _nothing() -> None:
    """What the thread does when nobody asked for anything."""
