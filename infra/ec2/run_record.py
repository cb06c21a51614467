"""A stage's run.json, as a stage that runs here leaves it: where it ran, how long and for how much."""

from __future__ import annotations

import json
from pathlib import Path

from infra.ec2.catalog import TYPES
from infra.ec2.reducer import State
from infra.ec2.spec import RunSpec


def write_record(path: Path, run: RunSpec, final: State, seconds: float) -> None:
    """Write the record of a run that has succeeded; one that is there already stays: a result that was taken before cost nothing more.

    seconds: of the attempt that succeeded, on its instance.
    """
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("ec2_run") == run.run_id:
        return
    used = run.candidates[final.candidate]
    kind = TYPES[used.instance_type]
    code = run.work["code"]  # what the node ran; the tree here may have gone on since
    record = {
        "stage": run.stage,
        "fingerprint": run.fingerprint,
        "commit": code["commit"],
        "dirty": code["dirty"],
        "seconds": seconds,
        "machine": {
            "cpu": f"EC2 {used.instance_type} ({used.market}, {used.zone})",
            "image": final.image,
            "cpus": kind.vcpus,
            "gpus": [kind.gpu] * kind.gpus if kind.gpu else [],
        },
        "cost_usd": round(final.spent_usd, 4),  # of all attempts, estimated
        "ec2_run": run.run_id,
        "attempts": list(final.history),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
