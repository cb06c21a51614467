"""What a finished run registers: the model of the last training stage, where it lies, how to fetch it, what it was made from."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from flows.catalog import EVALUATED
from flows.journal import DONE, RunRecord
from flows.lineage import StageLineage, lineage
from infra.bucket_outputs import recorded
from infra.registry import FinalModel
from stages.common.storage import read_json

FINAL_MODEL = list(EVALUATED)[-1]
FINAL_DATA = EVALUATED[FINAL_MODEL]


def final_model(root: Path, record: RunRecord) -> FinalModel | None:
    """None if this run did not bring the last model up to date (another project, `--only`, a failure).

    Raises InputError for a dvc.lock or a pointer that cannot be read.
    """
    data = root / FINAL_DATA
    done = {entry.stage for entry in record.stages if entry.state in DONE}
    if not (data / "model.json").is_file() or not (root / "dvc.lock").is_file():
        return None
    entries = lineage(root, FINAL_DATA)
    final = entries[-1]
    if final.stage not in done:
        return None
    pointer = read_json(data / "model.json")
    # A stage that changed nothing points at its parent's model.
    model = PurePosixPath(FINAL_DATA, pointer["path"])
    path = Path(root, model).resolve().relative_to(root.resolve()).as_posix()
    owner = next((e for e in reversed(entries) if any(path.startswith(out + "/") for out in e.outputs)), final)
    output = next((out for out in owner.outputs if path.startswith(out + "/")), FINAL_DATA)
    return FinalModel(
        pointer={
            "path": path,
            "md5": pointer["md5"],
            "dvc_output": output,
            "dvc_md5": owner.outputs.get(output, ""),
            "stage": owner.stage,
            "git_commit": record.commit,
            "fetch": f"git checkout {record.commit} && {_fetch(root, output)}",
            "fetch_note": "dvc.lock of the run is beside this file in the run's artifacts; put it into the checkout first",
        },
        tags={
            "git.commit": record.commit,
            "git.dirty": str(record.dirty).lower(),
            "profile": record.profile,
            **_lineage_tags(entries),
            **_score_tags(root),
        },
        profile=record.profile,
    )


def _fetch(root: Path, output: str) -> str:
    """What brings the output to another machine; one that a job made lies in the jobs' bucket."""
    lies = recorded(root).get(output)
    if lies is None:
        return f"dvc pull {output}"
    remote = f"longfuse-jobs s3://{lies.bucket}/dvc"
    return f"dvc remote add --local --force {remote} && dvc pull --remote longfuse-jobs {output}"


def _lineage_tags(entries: list[StageLineage]) -> dict[str, str]:
    """One tag per stage: fingerprint and, where this tree made it, the MLflow run."""
    return {
        f"lineage.{entry.stage.replace('@', '.')}": " ".join(
            part for part in (entry.fingerprint[:16], str((entry.run or {}).get("mlflow_run") or "")) if part
        )
        for entry in entries
    }


def _score_tags(root: Path) -> dict[str, str]:
    path = root / "outputs" / "evaluate" / FINAL_MODEL / "data" / "scores.json"
    if not path.is_file():
        return {}
    return {
        f"score.{score['benchmark']}.{score['mode']}".replace("/", "."): f"{score['mean']:.4f} (n {score['n']})"
        for score in read_json(path).get("scores", [])
        if score.get("mean") is not None
    }
