"""The MLflow side of a pipeline run: a parent run, a child run per stage that really ran, links to those that did not.

One thread makes every call to MLflow, from a queue: the flow never waits for it while stages run, its import (a
second) is off the critical path, and an error is logged once and fails nothing. What stages leave on disk for it is
described in `infra.spool`.
"""

from __future__ import annotations

import json
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.mlflow_store import open_store
from infra.records import (
    HEADLINES,
    MAX_ARTIFACT_BYTES,
    MAX_PARAM_CHARACTERS,
    flatten_params,
    is_kept,
    key_of,
    note_run_id,
    output_pointers,
    result_metrics,
    small_artifacts,
)
from infra.settings import Settings
from infra.spool import Announcement, SpoolReader, read_announcement, tracking_dir

BATCH = 1000  # metrics per request, MLflow's limit
logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Child:
    """A stage under way: its MLflow run (once it announced itself) and what has been sent of its spool."""

    stage: str
    run_id: str | None = None
    reader: SpoolReader | None = None
    seen: dict[str, int] = field(default_factory=dict)  # metric -> points so far
    last: dict[str, tuple[float, int, int]] = field(default_factory=dict)  # metric -> value, time in ms, step


class PipelineTracker:
    """Everything that one pipeline run sends to MLflow. Methods return at once unless they say otherwise."""

    def __init__(self, settings: Settings, interval_seconds: float = 2.0) -> None:
        self._settings = settings
        self._interval_seconds = interval_seconds
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._children: dict[str, Child] = {}
        self._warned = False
        self._opened: Future[str] = Future()
        self._tags: dict[str, str] = {}
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    # --- the run

    def start(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Future[str]:
        """Open the store and the parent run; the future gives its id, or raises InfraError if there is no store."""
        self._tags = dict(tags)

        def open_run() -> None:
            try:
                self._client, self._experiment = open_store(self._settings)
                self._close_dead_runs()
                run = self._client.create_run(
                    self._experiment, tags={**self._tags, "longfuse.kind": "pipeline"}, run_name=name
                )
                self.run_id: str = run.info.run_id
            except BaseException as error:  # handed to the caller, who decides  # noqa: BLE001
                self._opened.set_exception(error)
                return
            self._opened.set_result(self.run_id)
            self._quietly(lambda: self._log_params(self.run_id, params))

        self._queue.put(open_run)
        self._thread.start()
        return self._opened

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the parent; children started later get them too."""
        self._tags.update(tags)
        self._later(lambda: self._set_tags(self.run_id, tags))

    def log_text(self, text: str, name: str) -> None:
        """An artifact of the parent."""
        self._later(lambda: self._client.log_text(self.run_id, text, name))

    def log_file(self, path: Path) -> None:
        """A small file as an artifact of the parent; one that does not exist is passed over."""
        if path.is_file() and path.stat().st_size < MAX_ARTIFACT_BYTES:
            self._later(lambda: self._client.log_artifact(self.run_id, str(path)))

    def flush(self, timeout_seconds: float) -> None:
        """Wait until all that was asked for so far is done, with a bound."""
        done = threading.Event()
        self._queue.put(done.set)
        done.wait(timeout_seconds)

    def end(self, status: str, timeout_seconds: float = 60.0) -> None:
        """End the parent (FINISHED, FAILED or KILLED) and wait until all is sent, with a bound."""

        def close() -> None:
            self._client.set_terminated(self.run_id, status)
            shutil.rmtree(tracking_dir(self._settings, self.run_id), ignore_errors=True)

        for stage in list(self._children):
            self.stage_ended(stage, "KILLED", None)
        self._later(close)
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            logger.warning("MLflow took longer than %.0f s: metrics that were not sent stay in .state", timeout_seconds)

    # --- stages

    def stage_started(self, stage: str) -> None:
        """Watch for the stage's announcement and send its metrics as they come."""
        self._children[stage] = Child(stage=stage)

    def stage_ended(self, stage: str, status: str, lock_entry: Mapping[str, Any] | None) -> Future[str | None]:
        """Send the rest and end the child run; the future gives its id, None if the stage never really ran.

        lock_entry: the stage's part of dvc.lock, for the pointers to its outputs.
        """
        ended: Future[str | None] = Future()

        def finish() -> None:
            child = self._children.pop(stage, None)
            if child is None:
                return
            self._forward(child)
            if child.run_id is None:
                return
            self._finish(child, status, lock_entry)

        def finish_and_tell() -> None:
            child = self._children.get(stage)
            self._quietly(finish)
            ended.set_result(child.run_id if child else None)

        self._queue.put(finish_and_tell)
        return ended

    def link_reused(self, stage: str, fingerprint: str | None) -> Future[str | None]:
        """Tag the parent with the run that made a skipped or restored stage, and copy its headline metrics.

        The future gives that run's id; None if no run of this store made it.
        """
        linked: Future[str | None] = Future()

        def link() -> None:
            found: list[str | None] = [None]
            if fingerprint is not None:
                self._quietly(lambda: found.__setitem__(0, self._link(stage, fingerprint)))
            linked.set_result(found[0])

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
                    self._quietly(lambda child=child: self._forward(child))  # type: ignore[misc]
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
            self._quietly(lambda folder=folder: self._close_dead_run(folder.name))  # type: ignore[misc]
            shutil.rmtree(folder, ignore_errors=True)

    def _close_dead_run(self, parent: str) -> None:
        children = self._client.search_runs([self._experiment], f"tags.mlflow.parentRunId = '{parent}'")
        for run_id in [parent, *(run.info.run_id for run in children if run.info.status == "RUNNING")]:
            self._client.set_terminated(run_id, "KILLED")

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(key, str(value)[:MAX_PARAM_CHARACTERS]) for key, value in flatten_params(params).items()]
        for start in range(0, len(flat), 100):
            self._client.log_batch(run_id, params=flat[start : start + 100])

    def _open_child(self, child: Child, announced: Announcement) -> None:
        tags = {
            **self._tags,
            "mlflow.parentRunId": self.run_id,
            "longfuse.kind": "stage",
            "stage.name": child.stage,
            "stage.fingerprint": announced.fingerprint,
        }
        run = self._client.create_run(
            self._experiment, start_time=announced.started_ms, tags=tags, run_name=child.stage
        )
        child.run_id = run.info.run_id
        child.reader = SpoolReader(Path(announced.spool))
        self._log_params(run.info.run_id, announced.params)

    def _forward(self, child: Child) -> None:
        """Send what the spool has gained; after an error the same lines are read again."""
        if child.reader is None:
            announced = read_announcement(self._settings, self.run_id, child.stage)
            if announced is None:
                return
            self._open_child(child, announced)
        assert child.reader is not None
        assert child.run_id is not None
        before, seen = child.reader.offset, dict(child.seen)
        points: list[tuple[str, float, int, int]] = []
        for line in child.reader.new_lines():
            for key, value in line["metrics"].items():
                number = child.seen.get(key, 0)
                child.seen[key] = number + 1
                child.last[key] = (value, line["time_ms"], line["step"])
                if is_kept(number):
                    points.append((key, value, line["time_ms"], line["step"]))
        try:
            self._send(child.run_id, points)
        except Exception:
            child.reader.offset, child.seen = before, seen
            raise

    def _send(self, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), BATCH):
            self._client.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + BATCH]])

    def _finish(self, child: Child, status: str, lock_entry: Mapping[str, Any] | None) -> None:
        assert child.run_id is not None
        announced = read_announcement(self._settings, self.run_id, child.stage)
        assert announced is not None
        now = int(time.time() * 1000)
        last = [(key, *child.last[key]) for key, count in child.seen.items() if not is_kept(count - 1)]
        try:
            self._send(child.run_id, last)
            if status == "FINISHED":
                self._send(child.run_id, [(key, value, now, 0) for key, value in result_metrics(announced).items()])
                for path in small_artifacts(announced):
                    self._client.log_artifact(child.run_id, str(path))
                pointers = json.dumps(output_pointers(lock_entry or {}), indent=1)
                self._client.log_text(child.run_id, pointers, "outputs.json")
        finally:
            self._client.set_terminated(child.run_id, status)
        note_run_id(Path(announced.spool).with_name("run.json"), child.run_id)
        self._set_tags(self.run_id, {f"ran.{key_of(child.stage)}": child.run_id})
        if status == "FINISHED":
            self._copy_headlines(child.stage, child.run_id)

    def _link(self, stage: str, fingerprint: str) -> str | None:
        found = self._client.search_runs(
            [self._experiment],
            f"tags.\"stage.fingerprint\" = '{fingerprint}' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if not found:
            return None
        run_id: str = found[0].info.run_id
        self._set_tags(self.run_id, {f"reused.{key_of(stage)}": run_id})
        self._copy_headlines(stage, run_id)
        return run_id

    def _copy_headlines(self, stage: str, run_id: str) -> None:
        metrics = self._client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        self._send(
            self.run_id,
            [(f"{key_of(stage)}/{key}", value, now, 0) for key, value in metrics.items() if key.startswith(HEADLINES)],
        )


def _nothing() -> None:
    """What the thread does when nobody asked for anything."""
