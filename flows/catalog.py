"""Every stage of the DAG, by name: what it reads, which parameters it sees, and the function that does it.

dvc.yaml is the DAG; this table says how `python -m flows.stage NAME` calls a stage, and tests hold the two equal.
Import strings are loaded lazily, so reading the catalog costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.config import Section
from stages.common.errors import ConfigError

TASKS = ("multi_hop", "numerical", "reading_comprehension", "dialogue_memory", "multiple_choice")

CORPUS = "${ingest.sources}"  # resolved from params.yaml, by DVC in dvc.yaml and by `input_paths` here
BENCHMARKS = "${ingest.decontaminate_against}"  # the same
TOKENIZER = "outputs/base_model/data/model/tokenizer.json"
BASE = "outputs/base_model/data"
BASE_WEIGHTS = "outputs/base_model/data/model"  # what a pass-through sft points at
DOCUMENTS = "outputs/assemble/data/documents.jsonl"
TRAIN = "outputs/stratify/data/train.jsonl"
HELDOUT = "outputs/stratify/data/heldout.jsonl"


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage.

    params: field of the config type -> dotted key in params.yaml.
    inputs: name -> path relative to the project; a folder or a file in a folder.
    trains: may run on several processes (train.distributed).
    """

    name: str
    config: str
    run: str
    params: Mapping[str, str]
    inputs: Mapping[str, str]
    uses_model: bool = False
    trains: bool = False

    @property
    def folder(self) -> Path:
        """`rl@stage1` -> outputs/rl/stage1"""
        return Path("outputs", *self.name.split("@"))

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def run_module(self) -> str:
        return self.run.split(":")[0]

    def config_type(self) -> type[Section]:
        loaded = _load(self.config)
        assert isinstance(loaded, type)
        assert issubclass(loaded, Section)
        return loaded

    def run_function(self) -> Callable[..., dict[str, int]]:
        loaded: Callable[..., dict[str, int]] = _load(self.run)
        return loaded

    def input_paths(self, params: Mapping[str, Any]) -> dict[str, Path]:
        """The inputs with `${ingest.sources}` and the like filled in."""
        keys = {CORPUS: "sources", BENCHMARKS: "decontaminate_against"}
        return {
            name: Path(params["ingest"][keys[path]]) if path in keys else Path(path)
            for name, path in self.inputs.items()
        }


def _load(target: str) -> Any:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def _synthesize(task: str, documents: str) -> StageSpec:
    module = {"dialogue_memory": "dialogue"}.get(task, task)
    configs = {
        "reading_comprehension": "ReadingStage",
        "numerical": "NumericalStage",
        "multi_hop": "MultiHopStage",
        "dialogue_memory": "DialogueStage",
    }
    return StageSpec(
        name=f"synthesize@{task}",
        config=f"stages.synthesis.config:{configs.get(task, 'SynthesizeStage')}",
        run=f"stages.synthesis.{module}:run",
        params={"generator": f"synthesize.{task}", "writer": "endpoints.writer", "seed": "seed"},
        inputs={"documents": f"outputs/ingest/data/{documents}"},
    )


def _rl(stage: str, parent: str) -> StageSpec:
    return StageSpec(
        name=f"rl@{stage}",
        config="stages.rl.config:RLStage",
        run="stages.rl.stage:run",
        params={
            "shared": "rl.shared",
            "stage": f"rl.{stage}",
            "judge": "endpoints.judge",
            "train": "train",
            "seed": "seed",
        },
        inputs={
            "parent": parent,
            "train": TRAIN,
            "heldout": HELDOUT,
            "documents": DOCUMENTS,
            "base_model": BASE_WEIGHTS,
        },
        uses_model=True,
        trains=True,
    )


def _evaluate(model: str, data: str) -> StageSpec:
    return StageSpec(
        name=f"evaluate@{model}",
        config="stages.evaluation.config:EvaluateStage",
        run="stages.evaluation.evaluate:run",
        params={
            "shared": "evaluate.shared",
            "plan": f"evaluate.{model}",
            "judge": "endpoints.judge",
            "train": "train",
            "seed": "seed",
        },
        inputs={
            "model": data,
            "heldout": HELDOUT,
            "documents": DOCUMENTS,
            "base_model": BASE_WEIGHTS,
            "benchmarks": "data/evaluation",
        },
        uses_model=True,
    )


# Data folder of each evaluated model.
EVALUATED = {
    "base": BASE,
    "sft": "outputs/sft/data",
    "stage1": "outputs/rl/stage1/data",
    "stage2": "outputs/rl/stage2/data",
    "stage3": "outputs/rl/stage3/data",
    "memory": "outputs/memory_rl/data",
    "merge": "outputs/merge/data",
    "stage4": "outputs/rl/stage4/data",
}

_SPECS = (
    StageSpec(
        name="base_model",
        config="stages.base_model.config:BaseModelStage",
        run="stages.base_model.stage:run",
        params={"model": "model", "seed": "seed"},
        inputs={},
        uses_model=True,
    ),
    StageSpec(
        name="ingest",
        config="stages.ingest.config:IngestStage",
        run="stages.ingest.stage:run",
        params={"ingest": "ingest"},
        inputs={"corpus": CORPUS, "benchmarks": BENCHMARKS, "tokenizer": TOKENIZER},
    ),
    _synthesize("multi_hop", "documents"),
    _synthesize("numerical", "documents"),
    _synthesize("reading_comprehension", "documents"),
    _synthesize("dialogue_memory", "dialogues"),
    _synthesize("multiple_choice", "documents"),
    StageSpec(
        name="assemble",
        config="stages.synthesis.config:AssembleStage",
        run="stages.synthesis.assemble:run",
        params={"assemble": "assemble", "seed": "seed"},
        inputs={
            "documents": "outputs/ingest/data",
            "tokenizer": TOKENIZER,
            **{task: f"outputs/synthesize/{task}/data/qa.jsonl" for task in TASKS},
        },
    ),
    StageSpec(
        name="verify",
        config="stages.synthesis.config:VerifyStage",
        run="stages.synthesis.verify:run",
        params={"verify": "verify", "train": "train", "seed": "seed"},
        inputs={"assembled": "outputs/assemble/data", "base_model": BASE},
        uses_model=True,
    ),
    StageSpec(
        name="stratify",
        config="stages.synthesis.config:StratifyStage",
        run="stages.synthesis.stratify:run",
        params={"stratify": "stratify", "seed": "seed"},
        inputs={
            "verified": "outputs/verify/data",
            "documents": DOCUMENTS,
            "summary_ingest": "outputs/ingest/data/summary.json",
            **{f"summary_synthesize@{task}": f"outputs/synthesize/{task}/data/summary.json" for task in TASKS},
            "summary_assemble": "outputs/assemble/data/summary.json",
        },
    ),
    StageSpec(
        name="sft",
        config="stages.sft.config:SftStage",
        run="stages.sft.stage:run",
        params={"sft": "sft", "teacher": "endpoints.teacher", "train": "train", "seed": "seed"},
        inputs={"base_model": BASE, "samples": "outputs/stratify/data/sft.jsonl", "documents": DOCUMENTS},
        uses_model=True,
        trains=True,
    ),
    _rl("stage1", "outputs/sft/data"),
    _rl("stage2", "outputs/rl/stage1/data"),
    _rl("stage3", "outputs/rl/stage2/data"),
    StageSpec(
        name="memory_rl",
        config="stages.rl.config:MemoryRLStage",
        run="stages.rl.memory_stage:run",
        params={
            "memory_rl": "memory_rl",
            "shared": "rl.shared",
            "judge": "endpoints.judge",
            "train": "train",
            "seed": "seed",
        },
        inputs={"parent": "outputs/rl/stage3/data", "train": TRAIN, "heldout": HELDOUT, "documents": DOCUMENTS},
        uses_model=True,
        trains=True,
    ),
    StageSpec(
        name="merge",
        config="stages.merge.config:MergeStage",
        run="stages.merge.stage:run",
        params={"merge": "merge"},
        inputs={
            "base": "outputs/sft/data",
            "base_model": BASE_WEIGHTS,
            "stage3": "outputs/rl/stage3/data",
            "memory": "outputs/memory_rl/data",
        },
        uses_model=True,
    ),
    _rl("stage4", "outputs/merge/data"),
    *(_evaluate(model, data) for model, data in EVALUATED.items()),
    StageSpec(
        name="report",
        config="stages.report.config:ReportStage",
        run="stages.report.report:run",
        params={
            "report": "report",
            "std_scope": "rl.shared.std_scope",
            "aepo": "rl.shared.aepo.enabled",
            "clipping_level": "rl.shared.negative_clipping.level",
            "clipping_side": "rl.shared.negative_clipping.side",
        },
        inputs={
            **{f"evaluate_{model}": f"outputs/evaluate/{model}/data" for model in EVALUATED},
            "metrics_sft": "outputs/sft/data/metrics.jsonl",
            "metrics_stage1": "outputs/rl/stage1/data/metrics.jsonl",
            "metrics_stage2": "outputs/rl/stage2/data/metrics.jsonl",
            "metrics_stage3": "outputs/rl/stage3/data/metrics.jsonl",
            "metrics_memory": "outputs/memory_rl/data/metrics.jsonl",
            "metrics_stage4": "outputs/rl/stage4/data/metrics.jsonl",
            "merge": "outputs/merge/data/merge.json",
            "ingest": "outputs/ingest/data/summary.json",
            "assemble": "outputs/assemble/data/summary.json",
            "verify": "outputs/verify/data/summary.json",
            "stratify": "outputs/stratify/data/summary.json",
            "bins": "outputs/stratify/data/bins.json",
        },
    ),
)

CATALOG: dict[str, StageSpec] = {spec.name: spec for spec in _SPECS}


def stage_spec(name: str) -> StageSpec:
    """The stage of that name. ConfigError names the nearest one."""
    if name not in CATALOG:
        import difflib

        near = difflib.get_close_matches(name, CATALOG, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no stage {name!r}.{hint} Stages: {', '.join(CATALOG)}.")
    return CATALOG[name]
