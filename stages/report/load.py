"""What the report reads: scores and predictions of every model, metrics of every training stage, summaries of the data stages.

Keys of a summary that this file does not know are shown as they are, so a stage may say more without a change here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from stages.common.errors import InputError
from stages.common.storage import iter_json_lines, iter_records, read_json

# In the order in which the models come into being; names as in `evaluate@<model>`.
MODELS = ("base", "sft", "stage1", "stage2", "stage3", "memory", "merge", "stage4")
FIRST_MODEL, WARM_MODEL, LAST_MODEL = MODELS[0], MODELS[1], MODELS[-1]
# Training stages in the order in which they run; `metrics_<stage>` is the input's name.
TRAINED = ("sft", "stage1", "stage2", "stage3", "memory", "stage4")
DATA_STAGES = ("ingest", "assemble", "verify", "stratify")
FULL_CONTEXT, AGENT, CLOSED_BOOK = "full_context", "memory_agent", "closed_book"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Score(_Read):
    """One line of scores.json: a model on a benchmark in one mode. All figures in [0, 1]."""

    benchmark: str
    mode: str
    metric: str = ""
    n: int
    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


class Prediction(_Read):
    """One line of predictions.jsonl. Question, gold and prediction are untrusted text."""

    benchmark: str
    mode: str
    sample_id: str
    task_type: str
    question: str
    gold: str | list[str]
    prediction: str
    score: float
    sample: int = 0
    failure: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    context_tokens: int | None = None
    context_cut: bool = False
    evidence_position: float | None = None


class Bins(_Read):
    """pass@k bins of one task type: samples that there were and that were drawn for RL, between consecutive edges."""

    edges: list[float]
    available: list[int]
    drawn: list[int]

    @model_validator(mode="after")
    def _one_number_per_bin(self) -> Bins:
        if not len(self.available) == len(self.drawn) == len(self.edges) - 1:
            raise ValueError("there must be one number for every bin")
        return self


Metrics = list[dict[str, float]]  # one dict per update, with its "step"


@dataclass(frozen=True)
class ReportData:
    """Everything but the predictions, which are read when examples are chosen."""

    scores: dict[str, list[Score]]  # model -> scores
    metrics: dict[str, Metrics]  # training stage -> updates
    merge: dict[str, Any]
    summaries: dict[str, dict[str, Any]]  # data stage -> summary.json
    bins: dict[str, Bins]  # task type -> pass@k bins
    links: dict[str, str]  # input, as in `evaluate_base/scores.json` or `merge` -> its file, relative to the report


def load_report_data(inputs: Mapping[str, Path], out_dir: Path) -> ReportData:
    """Read the stage's inputs. InputError names the file that is missing or damaged. `out_dir`: where the report will be."""
    return ReportData(
        scores={model: _scores(inputs[f"evaluate_{model}"] / "scores.json") for model in MODELS},
        metrics={stage: list(iter_json_lines(inputs[f"metrics_{stage}"])) for stage in TRAINED},
        merge=_object(inputs["merge"]),
        summaries={stage: _object(inputs[stage]) for stage in DATA_STAGES},
        bins=_bins(inputs["bins"]),
        links=_links(inputs, out_dir),
    )


def _links(inputs: Mapping[str, Path], out_dir: Path) -> dict[str, str]:
    files = {name: path for name, path in inputs.items() if not name.startswith("evaluate_")}
    for model in MODELS:
        for name in ("scores.json", "predictions.jsonl"):
            files[f"evaluate_{model}/{name}"] = inputs[f"evaluate_{model}"] / name
    return {name: quote(os.path.relpath(path, out_dir).replace(os.sep, "/")) for name, path in files.items()}


def iter_predictions(evaluate_dir: Path) -> Iterator[Prediction]:
    """The predictions of one model, in file order."""
    return iter_records(evaluate_dir / "predictions.jsonl", Prediction)


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object. Delete it and run again.")
    return value


def _scores(path: Path) -> list[Score]:
    try:
        return [Score.model_validate(row) for row in _object(path)["scores"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} has no list `scores` ({error}). Delete it and run again.") from None
    except ValidationError as error:
        raise _damaged(path, error) from None


def _bins(path: Path) -> dict[str, Bins]:
    try:
        return {task: Bins.model_validate(value) for task, value in _object(path).items()}
    except ValidationError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: ValidationError) -> InputError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return InputError(f"{path}: {where}: {first['msg']}. Delete the file and run again.")
