"""What of a stage is worth recording in MLflow: which points, files, numbers and names. Pure functions of its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.spool import Announcement

MAX_ARTIFACT_BYTES = 5_000_000
MAX_PARAM_CHARACTERS = 500
SMALL_ARTIFACTS = (
    "metrics.jsonl",
    "summary.json",
    "scores.json",
    "bins.json",
    "merge.json",
    "verification.jsonl",
    "report.md",
    "report.html",
    "datacard.md",
    *(f"datacard_{name}.svg" for name in ("lengths", "positions", "tasks", "hops", "families", "dropped")),
)
HEADLINES = ("reward/mean", "entropy/token_mean", "len/response/mean", "loss/", "score/")


def key_of(stage: str) -> str:
    """A stage's name where MLflow allows no `@`: `rl@stage1` -> `rl.stage1`."""
    return stage.replace("@", ".")


def is_kept(number: int) -> bool:
    """Whether the point of that number (0-based) of a metric is sent: at most 2,000 of a million.

    The first 1,000 all, then of each doubling (1,000-2,000, 2,000-4,000, ...) a hundred. The last point is always sent
    at the end of the stage.
    """
    if number < 1000:
        return True
    return number % (10 * (1 << ((number // 1000).bit_length() - 1))) == 0


def flatten_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten_params(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def result_metrics(announced: Announcement) -> dict[str, float]:
    """Numbers that stand in a stage's outputs: counts of its record, scores of an evaluation."""
    metrics: dict[str, float] = {}
    record = _read_object(Path(announced.record))
    for name, count in (record.get("counts") or {}).items():
        metrics[f"count/{name}"] = float(count)
    for score in _read_object(Path(announced.data_dir) / "scores.json").get("scores") or []:
        name = f"{score['benchmark']}/{score['mode']}"
        if score.get("mean") is None:  # nothing was asked, or nothing was answered
            continue
        metrics[f"score/{name}"] = float(score["mean"])
        for key in ("n", "ci_low", "ci_high"):
            if score.get(key) is not None:
                metrics[f"interval/{name}/{key}"] = float(score[key])
    return metrics


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > MAX_ARTIFACT_BYTES:
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def small_artifacts(announced: Announcement) -> list[Path]:
    """The record, and the small files of the stage's data folder that a reader wants to see."""
    candidates = [Path(announced.record), *(Path(announced.data_dir) / name for name in SMALL_ARTIFACTS)]
    return [path for path in candidates if path.is_file() and path.stat().st_size < MAX_ARTIFACT_BYTES]


def output_pointers(lock_entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Path, md5 and size of each output, from dvc.lock: enough to fetch it with DVC."""
    return [{key: out[key] for key in ("path", "md5", "size") if key in out} for out in lock_entry.get("outs", [])]


def note_run_id(path: Path, run_id: str) -> None:
    """Add the MLflow run to a stage's run.json, if the stage wrote one."""
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        partial = path.with_suffix(".partial")
        partial.write_text(
            json.dumps({**record, "mlflow_run": run_id}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        partial.replace(path)
