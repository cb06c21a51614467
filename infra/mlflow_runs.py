"""Every call that the tracker makes to MLflow for one pipeline run. One thread uses it, see `infra.tracking`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.mlflow_store import open_store
from infra.prediction_tables import prediction_table
from infra.records import (
    HEADLINES,
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
from infra.spool import SENT_NAME, Announcement, SpoolReader, read_announcement
from infra.trajectories import TrajectorySender

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000  # metrics per request, MLflow's limit
Point = tuple[str, float, int, int]  # metric, value, time in ms, step


@dataclass(kw_only=True)
class Child:
    """A stage under way: its MLflow run (once it announced itself) and what has been sent of its spool."""

    stage: str
    run_id: str | None = None
    announced: Announcement | None = None
    reader: SpoolReader | None = None
    trajectories: TrajectorySender | None = None
    seen: dict[str, int] = field(default_factory=dict)  # metric -> points so far
    last: dict[str, Point] = field(default_factory=dict)


class MlflowRuns:
    """The parent run of a pipeline run and its children. Methods raise whatever MLflow raises."""

    def __init__(self, settings: Settings, name: str, tags: Mapping[str, str]) -> None:
        """Open the store and create the parent run. InfraError if there is no store."""
        self._settings = settings
        self._tags = dict(tags)
        client, experiment = open_store(settings)
        self.client: MlflowClient = client
        self._experiment = experiment
        run = client.create_run(experiment, tags={**self._tags, "longfuse.kind": "pipeline"}, run_name=name)
        self.parent: str = run.info.run_id

    def close_dead(self, parent: str) -> None:
        """Mark a pipeline run whose process died, and its unfinished stages, as killed."""
        children = self.client.search_runs([self._experiment], f"tags.mlflow.parentRunId = '{parent}'")
        for run_id in [parent, *(run.info.run_id for run in children if run.info.status == "RUNNING")]:
            self.client.set_terminated(run_id, "KILLED")

    def tag(self, tags: Mapping[str, str]) -> None:
        """Tags of the parent; children made later get them too."""
        self._tags.update(tags)
        for key, value in tags.items():
            self.client.set_tag(self.parent, key, value)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Parameters as dotted keys, values cut at 500 characters."""
        from mlflow.entities import Param

        flat = [Param(key, str(value)[:MAX_PARAM_CHARACTERS]) for key, value in flatten_params(params).items()]
        for start in range(0, len(flat), 100):
            self.client.log_batch(run_id, params=flat[start : start + 100])

    def forward(self, child: Child) -> None:
        """Send what the stage's spool has gained, a few traces at a time; after an error the same lines are read again.

        A stage that has not announced itself has not really started, and has no run.
        """
        if child.reader is None:
            child.announced = read_announcement(self._settings, self.parent, child.stage)
            if child.announced is None:
                return
            self._open(child, child.announced)
        assert child.reader is not None
        assert child.trajectories is not None
        assert child.run_id is not None
        before, seen = child.reader.offset, dict(child.seen)
        points: list[Point] = []
        for line in child.reader.new_lines():
            if "metrics" not in line:
                child.trajectories.take(line["trajectory"])
                continue
            for key, value in line["metrics"].items():
                point = (key, value, line["time_ms"], line["step"])
                if is_kept(child.seen.get(key, 0)):
                    points.append(point)
                child.seen[key] = child.seen.get(key, 0) + 1
                child.last[key] = point
        try:
            self._send(child.run_id, points)
        except Exception:
            child.reader.offset, child.seen = before, seen
            raise
        child.trajectories.send()

    def _open(self, child: Child, announced: Announcement) -> None:
        tags = {
            **self._tags,
            "mlflow.parentRunId": self.parent,
            "longfuse.kind": "stage",
            "stage.name": child.stage,
            "stage.fingerprint": announced.fingerprint,
        }
        run = self.client.create_run(self._experiment, start_time=announced.started_ms, tags=tags, run_name=child.stage)
        child.run_id = run.info.run_id
        names = ("stage.name", "stage.fingerprint", "git.commit", "profile")
        child.trajectories = TrajectorySender(
            self._settings,
            self._experiment,
            run.info.run_id,
            {name: tags[name] for name in names if name in tags},
            announced.fingerprint,
            Path(announced.spool).with_name(SENT_NAME),
        )
        child.reader = SpoolReader(Path(announced.spool))
        self.log_params(run.info.run_id, announced.params)

    def finish(self, child: Child, status: str, lock_entry: Mapping[str, Any] | None) -> None:
        """End the run of a stage that started: last points, results and small files if it succeeded, headlines."""
        assert child.run_id is not None
        assert child.announced is not None
        try:
            self._send(child.run_id, [child.last[key] for key, count in child.seen.items() if not is_kept(count - 1)])
            if status == "FINISHED":
                self._send(child.run_id, _now(result_metrics(child.announced)))
                for path in small_artifacts(child.announced):
                    self.client.log_artifact(child.run_id, str(path))
                table = prediction_table(Path(child.announced.data_dir) / "predictions.jsonl")
                if table is not None:
                    self.client.log_table(child.run_id, data=table, artifact_file="predictions.json")
                pointers = json.dumps(output_pointers(lock_entry or {}), indent=1)
                self.client.log_text(child.run_id, pointers, "outputs.json")
        finally:
            self.client.set_terminated(child.run_id, status)
        note_run_id(Path(child.announced.spool).with_name("run.json"), child.run_id)
        self.client.set_tag(self.parent, f"ran.{key_of(child.stage)}", child.run_id)
        if status == "FINISHED":
            self._copy_headlines(child.stage, child.run_id)

    def link(self, stage: str, fingerprint: str) -> str | None:
        """Tag the parent with the run that made a stage's outputs, copy its headlines; None if the store has none."""
        found = self.client.search_runs(
            [self._experiment],
            f"tags.\"stage.fingerprint\" = '{fingerprint}' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if not found:
            return None
        run_id: str = found[0].info.run_id
        self.client.set_tag(self.parent, f"reused.{key_of(stage)}", run_id)
        self._copy_headlines(stage, run_id)
        return run_id

    def _copy_headlines(self, stage: str, run_id: str) -> None:
        metrics = self.client.get_run(run_id).data.metrics
        headlines = {f"{key_of(stage)}/{key}": value for key, value in metrics.items() if key.startswith(HEADLINES)}
        self._send(self.parent, _now(headlines))

    def _send(self, run_id: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), BATCH):
            self.client.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + BATCH]])


def _now(metrics: Mapping[str, float]) -> list[Point]:
    time_ms = int(time.time() * 1000)
    return [(key, value, time_ms, 0) for key, value in metrics.items()]
