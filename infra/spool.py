"""What a stage's process leaves on disk for the tracker: an announcement, a metric spool, an outcome.

The stage's process never imports MLflow (a second per process, and a service that may be down): it appends lines to
files here, and `infra.tracking` in the process that drives the run sends them. So a tracking error cannot fail or slow
a stage, a stage on another machine is tracked in the same way, and what a dead run left is sent by the next one.

    .state/tracking/<MLflow parent run>/<stage>.json   the announcement
    <state_dir>/metrics.spool.jsonl                    one line per emit: {"step", "time_ms", "metrics"},
                                                       one per trajectory of the memory agent: {"time_ms", "trajectory"}
    <state_dir>/trajectories.sent                      keys of those that the tracker has sent, one a line
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.settings import Settings

SPOOL_NAME = "metrics.spool.jsonl"
SENT_NAME = "trajectories.sent"
FINISHED = b'{"finished": true}\n'
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A stage that really started. Paths are absolute; `params` is the stage's part of params.yaml, nested."""

    stage: str
    fingerprint: str
    spool: str
    data_dir: str
    record: str
    params: dict[str, Any]
    started_ms: int
    pid: int


class MetricSpool:
    """Appends metrics to a JSONL file, a line at a time: what a killed process wrote is readable. What stages call `emit`.

    A spool that an interrupted attempt left is continued (its steps precede the checkpoint that is resumed); one that
    ends with the mark of `finish` belongs to a complete run and is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        end = _last_bytes(path, len(FINISHED))
        anew = end.endswith(FINISHED)
        if anew:
            path.with_name(SENT_NAME).unlink(missing_ok=True)
        self._file = path.open("w" if anew else "a", encoding="utf-8")
        self._warned = False
        if end and not end.endswith(b"\n"):
            self._file.write("\n")  # half a line of a killed process must not swallow the next one

    def emit(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics; numbers that are not finite are left out (MLflow's store refuses some)."""
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        line = {"step": int(step), "time_ms": int(time.time() * 1000), "metrics": finite}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    __call__ = emit

    def trajectory(self, record: Mapping[str, Any]) -> None:
        """Append the record of a trajectory (stages/memory/record.py). An error is logged once and stops nothing."""
        try:
            line = json.dumps({"time_ms": int(time.time() * 1000), "trajectory": record})
            self._file.write(line + "\n")
            self._file.flush()
        except (OSError, TypeError, ValueError) as error:  # a full disk; a value that JSON does not know
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            logger.log(level, "a trajectory was not recorded for MLflow's Traces: %s. The stage goes on.", error)

    def finish(self) -> None:
        """Mark the end of a stage that succeeded."""
        self._file.write(FINISHED.decode())
        self._file.close()

    def close(self) -> None:
        """Free the descriptor; nothing is buffered."""
        self._file.close()


def _last_bytes(path: Path, count: int) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read()


def tracking_dir(settings: Settings, parent_run: str) -> Path:
    """Where the stages of one pipeline run announce themselves."""
    return settings.state_dir / "tracking" / parent_run


def start_stage_run(
    settings: Settings,
    *,
    stage: str,
    fingerprint: str,
    params: Mapping[str, Any],
    state_dir: Path,
    data_dir: Path,
    record: Path,
) -> MetricSpool:
    """Open the stage's spool, and announce the stage if it belongs to a pipeline run.

    Called by `flows.stage` in the stage's process. Without a parent run (plain `dvc repro`) the spool is all there is.
    A spool of an interrupted attempt is continued: metrics of the steps before its checkpoint are in it.
    """
    spool = MetricSpool(state_dir.resolve() / SPOOL_NAME)
    if settings.parent_run is not None:
        announcement = Announcement(
            stage=stage,
            fingerprint=fingerprint,
            spool=str(spool.path),
            data_dir=str(data_dir.resolve()),
            record=str(record.resolve()),
            params=dict(params),
            started_ms=int(time.time() * 1000),
            pid=os.getpid(),
        )
        path = tracking_dir(settings, settings.parent_run) / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(announcement)), encoding="utf-8")
        partial.replace(path)
    return spool


def read_announcement(settings: Settings, parent_run: str, stage: str) -> Announcement | None:
    """The announcement of a stage of that run; None if it did not start (skipped, restored, or not yet)."""
    path = tracking_dir(settings, parent_run) / f"{stage}.json"
    if not path.is_file():
        return None
    return Announcement(**json.loads(path.read_text(encoding="utf-8")))


@dataclass
class SpoolReader:
    """Reads what was appended since the last call. A line without its end is left for the next time."""

    path: Path
    offset: int = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Yield complete new lines; damaged ones are passed over."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                self.offset += len(raw)
                try:
                    line = json.loads(raw)
                except ValueError:  # half a line from a process that was killed while it wrote
                    continue
                if isinstance(line, dict) and (
                    {"step", "time_ms", "metrics"} <= line.keys() or isinstance(line.get("trajectory"), dict)
                ):
                    yield line
