"""The merge stage: SCE of the stage-3 model and the memory expert over the model before RL (paper section 4.1).

The paper names neither base nor select_topk. Ours: base = the SFT model (or what it points at), topk = 1; with one
lineage as base and expert the method would return the expert or the base unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from stages.common.metrics import Emit
from stages.common.storage import open_model_pointer, write_json, write_model_pointer
from stages.merge.config import MergeStage
from stages.merge.merge import merge_checkpoints
from stages.merge.tensor_report import summarise

_log = logging.getLogger(__name__)

EXPERTS = ("stage3", "memory")


def run(config: MergeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Write model/, model.json and merge.json. InputError as in `merge_checkpoints`."""
    base_dir = open_model_pointer(inputs["base"])
    expert_dirs = [open_model_pointer(inputs[name]) for name in EXPERTS]
    model_dir = out_dir / "model"
    reports = merge_checkpoints(
        base_dir,
        expert_dirs,
        model_dir,
        select_topk=config.merge.select_topk,
        weighting=config.merge.weighting,
        weights=config.merge.weights,
        method=config.merge.method,
        dtype=config.merge.dtype,
        work_dir=state_dir / "model.partial",
    )
    summary = summarise(reports, EXPERTS)
    write_json(
        out_dir / "merge.json",
        {
            "method": config.merge.method,
            "select_topk": config.merge.select_topk,
            "weighting": config.merge.weighting,
            "weights": config.merge.weights,
            "dtype": config.merge.dtype,
            "experts": list(EXPERTS),
            "summary": summary,
            "tensors": [report.as_row() for report in reports],
        },
    )
    write_model_pointer(out_dir, model_dir)
    emit(0, {f"merge/{key}": value for key, value in summary.items() if value is not None})
    if summary["changed_tensors"] == 0:
        _log.warning("No expert differs from the base: the merged model is the base.")
    return {"tensors": len(reports), "parameters": sum(report.parameters for report in reports)}
