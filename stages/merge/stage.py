"""The merge stage: SCE of the stage-3 model and the memory expert over the model before RL (paper section 4.1).

The paper names neither base nor select_topk. Ours: base = the SFT model (or what it points at), topk = 1; with one
lineage as base and expert the method would return the expert or the base unchanged.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.metrics import Emit
from stages.common.storage import open_model_pointer, write_json, write_model_pointer
from stages.merge.config import MergeStage
from stages.merge.merge import TensorReport, merge_checkpoints

_log = logging.getLogger(__name__)

EXPERTS = ("stage3", "memory")


def run(config: MergeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Write model/, model.json and merge.json. InputError as in `merge_checkpoints`."""
    del state_dir  # seconds of work: nothing worth resuming
    base_dir = open_model_pointer(inputs["base"])
    expert_dirs = [open_model_pointer(inputs[name]) for name in EXPERTS]
    model_dir = out_dir / "model"
    reports = merge_checkpoints(
        base_dir,
        expert_dirs,
        model_dir,
        select_topk=config.merge.select_topk,
        weighting=config.merge.weighting,
    )
    summary = summarise(reports)
    write_json(
        out_dir / "merge.json",
        {
            "method": config.merge.method,
            "select_topk": config.merge.select_topk,
            "weighting": config.merge.weighting,
            "experts": list(EXPERTS),
            "summary": summary,
            "tensors": [_row(report) for report in reports],
        },
    )
    write_model_pointer(out_dir, model_dir)
    emit(0, {f"merge/{key}": value for key, value in summary.items() if value is not None})
    if summary["changed_tensors"] == 0:
        _log.warning("No expert differs from the base: the merged model is the base.")
    return {"tensors": len(reports), "parameters": sum(report.parameters for report in reports)}


def summarise(reports: Sequence[TensorReport]) -> dict[str, float | None]:
    """Figures of the whole merge, each tensor weighted by its parameters."""
    merged = [(report.parameters, report.sce) for report in reports if report.sce is not None]
    changed = [(count, sce) for count, sce in merged if any(sce.weights)]
    with_cosine = [(count, sce.cosine) for count, sce in merged if sce.cosine is not None]
    total = sum(count for count, _ in changed)
    summary: dict[str, float | None] = {
        "changed_tensors": float(sum(1 for _, sce in merged if any(sce.delta_rms))),
        "erased_fraction": math.fsum(n * sce.erased_fraction for n, sce in changed) / total if total else 0.0,
        "cosine": math.fsum(n * c for n, c in with_cosine) / sum(n for n, _ in with_cosine) if with_cosine else None,
    }
    for index, name in enumerate(EXPERTS):
        summary[f"weight_{name}"] = math.fsum(n * sce.weights[index] for n, sce in changed) / total if total else 0.0
    return summary


def _row(report: TensorReport) -> dict[str, Any]:
    row: dict[str, Any] = {"name": report.name, "parameters": report.parameters}
    if report.sce is None:
        return {**row, "copied": True}
    return {
        **row,
        "weights": list(report.sce.weights),
        "delta_rms": list(report.sce.delta_rms),
        "erased_fraction": report.sce.erased_fraction,
        "cosine": report.sce.cosine,
    }
