"""Splits: held-out questions, RL prompts drawn equally from pass@k bins, warm-up samples (paper section 4.2).

Files: heldout.jsonl, train.jsonl (RL), sft.jsonl, bins.json, summary.json, and the data card of all verified samples
(datacard.md, datacard_*.svg). The rules are in splits.py.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.errors import ConfigError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Sample, TaskType
from stages.common.storage import DocumentStore, iter_json_lines, read_json, read_records, write_json, write_jsonl
from stages.synthesis.config import StratifyConfig, StratifyStage
from stages.synthesis.datacard import write_datacard
from stages.synthesis.splits import Bins, choose_heldout, choose_sft, draw_by_bins, trainable

log = logging.getLogger(__name__)


def run(
    config: StratifyStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Split the verified samples. NotEnoughDataError if a task type has no RL prompt."""
    del state_dir, emit
    plan = config.stratify
    _check_names(plan)
    samples = read_records(inputs["verified"] / "samples.jsonl", Sample)
    pass_rates = {
        str(row["id"]): float(row["pass_rate"])
        for row in iter_json_lines(inputs["verified"] / "verification.jsonl")
        if row["model_checked"]
    }
    heldout = choose_heldout(samples, frozenset(pass_rates), plan.heldout_per_task, config.seed)
    usable = trainable(samples, heldout)
    train: list[Sample] = []
    sft: list[Sample] = []
    bins: dict[str, Bins] = {}
    for task in TaskType:
        of_task = [sample for sample in usable if sample.task_type is task]
        checked = [sample for sample in of_task if sample.id in pass_rates]
        if not checked:
            total = sum(sample.task_type is task for sample in samples)
            raise NotEnoughDataError(
                f"{task}: no RL prompt is left ({total} verified samples, {len(of_task)} beside the held-out ones, 0 "
                "of them checked by the model). Add documents to ingest.sources, or raise "
                f"synthesize.{task}.questions or verify.samples_per_task, or lower stratify.heldout_per_task.{task}."
            )
        drawn, bins[task] = draw_by_bins(checked, pass_rates, plan.rl_prompts_per_task, plan.bins, config.seed, task)
        rl_ids = frozenset(sample.id for sample in drawn)
        train += drawn
        sft += choose_sft(of_task, rl_ids, plan.sft_samples_per_task.get(task, 0), config.seed, task)

    write_jsonl(out_dir / "heldout.jsonl", heldout)
    train.sort(key=_by_task)
    sft.sort(key=_by_task)
    write_jsonl(out_dir / "train.jsonl", train)
    write_jsonl(out_dir / "sft.jsonl", sft)
    edges = [number / plan.bins for number in range(plan.bins + 1)]
    write_json(
        out_dir / "bins.json",
        {task: {"edges": edges, "available": b.available, "drawn": b.drawn} for task, b in bins.items()},
    )
    summary = _summary(plan, samples, usable, heldout, train, sft)
    write_json(out_dir / "summary.json", summary)
    splits = {"train": train, "sft": sft, "heldout": heldout}
    documents = DocumentStore([inputs["documents"]])
    checks = read_json(inputs["verified"] / "summary.json").get("checks") or {}
    write_datacard(out_dir, samples, splits, documents, _drops(inputs), pass_rates, checks)
    for shortfall in summary["shortfalls"]:
        log.warning("%(split)s/%(task)s: %(found)d samples, %(wanted)d wanted", shortfall)
    counts: dict[str, int] = summary["counts"]
    return counts


def _drops(inputs: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """What every stage up to here has dropped, by reason, from the stages' summaries."""
    summaries = {name.removeprefix("summary_"): path for name, path in inputs.items() if name.startswith("summary_")}
    summaries["verify"] = inputs["verified"] / "summary.json"
    return {stage: dict(read_json(path).get("dropped") or {}) for stage, path in summaries.items()}


def _check_names(plan: StratifyConfig) -> None:
    for field in ("heldout_per_task", "sft_samples_per_task"):
        for name, number in getattr(plan, field).items():
            if name not in set(TaskType):
                raise ConfigError(f"stratify.{field}: there is no task type {name!r}. Known: {', '.join(TaskType)}.")
            if number < 0:
                raise ConfigError(f"stratify.{field}.{name} is {number}; give 0 or more.")


def _by_task(sample: Sample) -> tuple[int, str]:
    return list(TaskType).index(sample.task_type), sample.id


def _summary(
    plan: StratifyConfig,
    samples: Sequence[Sample],
    usable: Sequence[Sample],
    heldout: Sequence[Sample],
    train: Sequence[Sample],
    sft: Sequence[Sample],
) -> dict[str, Any]:
    wanted = {
        "heldout": plan.heldout_per_task,
        "train": dict.fromkeys(map(str, TaskType), plan.rl_prompts_per_task),
        "sft": plan.sft_samples_per_task,
    }
    found = {
        name: Counter(str(sample.task_type) for sample in split)
        for name, split in (("heldout", heldout), ("train", train), ("sft", sft))
    }
    shortfalls: list[dict[str, Any]] = [
        {"split": split, "task": task, "found": found[split][task], "wanted": number}
        for split, numbers in wanted.items()
        for task, number in sorted(numbers.items())
        if found[split][task] < number
    ]
    rl_ids = {sample.id for sample in train}
    return {
        "counts": {
            "samples": len(samples),
            "heldout": len(heldout),
            "train": len(train),
            "sft": len(sft),
            "sft_shared_with_train": sum(sample.id in rl_ids for sample in sft),
            "kept_out_by_heldout": len(samples) - len(heldout) - len(usable),
            "shortfall": sum(row["wanted"] - row["found"] for row in shortfalls),
        },
        "shortfalls": shortfalls,
        "splits": {name: dict(sorted(counter.items())) for name, counter in found.items()},
        "generators": {
            name: dict(sorted(Counter(sample.generator for sample in split).items()))
            for name, split in (("heldout", heldout), ("train", train), ("sft", sft))
        },
    }
