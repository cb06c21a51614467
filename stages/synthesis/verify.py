"""Verification (paper section 3.3): programmatic checks on every sample, model checks on some of each task.

Only samples that the base model was asked can enter RL (their pass rate is needed); the others may warm up and test.
Departure: the paper checks all with a strong model; here it is the base model itself, on `samples_per_task` samples.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.common.metrics import Emit
from stages.common.records import Dropped, Sample, TaskType
from stages.common.seeds import rng
from stages.common.storage import DocumentStore, open_model_pointer, read_records, write_json, write_jsonl
from stages.common.tokens import TokenCounter
from stages.engines.base import RolloutEngine
from stages.engines.build import build_engine
from stages.rewards.hybrid import reward
from stages.synthesis.config import VerifyConfig, VerifyStage
from stages.synthesis.excerpts import TokenOffsets
from stages.synthesis.model_checks import CheckCost, ModelChecks, Verdict, verification_row
from stages.synthesis.programmatic import dropped_by_verify, programmatic, programmatic_in_parallel

log = logging.getLogger(__name__)


def run(config: VerifyStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Check all samples; write the kept ones with what the model did."""
    started = time.monotonic()
    checked = programmatic_in_parallel(inputs["assembled"], state_dir=state_dir)
    seconds = time.monotonic() - started
    log.info("the programmatic checks took %.1f s", seconds)
    emit(0, {"time/programmatic_s": seconds})
    samples = read_records(inputs["assembled"] / "samples.jsonl", Sample)
    documents = DocumentStore([inputs["assembled"] / "documents.jsonl"])
    model_dir = open_model_pointer(inputs["base_model"])
    offsets = TokenCounter(model_dir / "tokenizer.json").offsets
    # Attempts of many prompts share a batch: nothing is resumed here, so bits need not be independent of the batch.
    engine = build_engine(model_dir, config.train, batch_groups=True)
    try:
        return verify(samples, documents, engine, offsets, config.verify, config.seed, out_dir, checked, emit)
    finally:
        engine.close()


def verify(
    samples: Sequence[Sample],
    documents: DocumentStore,
    engine: RolloutEngine,
    offsets: TokenOffsets,
    config: VerifyConfig,
    seed: int,
    out_dir: Path,
    checked: tuple[list[Sample], list[Dropped]] | None = None,
    emit: Emit | None = None,
) -> dict[str, int]:
    """The stage's work with a given engine. checked: what `programmatic_in_parallel` has found, if it has run."""
    sound, dropped = programmatic(samples, documents) if checked is None else checked
    log.info("%d of %d samples pass the programmatic checks", len(sound), len(samples))
    chosen = draw_spread(sound, config.samples_per_task, seed)
    checks = ModelChecks(engine, reward, config, seed)
    verdicts = checks.judge(chosen, documents, offsets)
    metrics = cost_metrics(checks.costs)
    if emit is not None:
        emit(0, metrics)
    kept = []
    for sample in sound:
        refused = verdicts[sample.id].refused if sample.id in verdicts else None
        if refused is None:
            kept.append(sample)
        else:
            dropped.append(dropped_by_verify(sample, *refused))
    write_jsonl(out_dir / "samples.jsonl", kept)
    write_jsonl(out_dir / "verification.jsonl", (verification_row(sample, verdicts.get(sample.id)) for sample in kept))
    write_jsonl(out_dir / "dropped.jsonl", dropped)
    summary = _summary(samples, kept, dropped, chosen, verdicts)
    summary["checks"] = {"programmatic": {"samples": len(samples)}} | {
        name: {key: value for key, value in asdict(cost).items() if key != "seconds"}
        for name, cost in checks.costs.items()
    }
    write_json(out_dir / "summary.json", summary)
    counts: dict[str, int] = summary["counts"]
    return counts


def cost_metrics(costs: Mapping[str, CheckCost]) -> dict[str, float]:
    """Seconds and tokens of each model check, apart from each other and from the programmatic ones."""
    metrics: dict[str, float] = {}
    for name, cost in costs.items():
        log.info("%s: %.1f s, %d attempts", name, cost.seconds, cost.attempts)
        metrics[f"time/{name}_s"] = cost.seconds
        metrics[f"tokens/{name}/prompt"] = cost.prompt_tokens
        metrics[f"tokens/{name}/completion"] = cost.completion_tokens
    return metrics


def draw_spread(samples: Sequence[Sample], per_task: int, seed: int) -> list[Sample]:
    """At most `per_task` samples of each task: one of every generator, the rest in the generators' proportion."""
    drawn: list[Sample] = []
    for task in TaskType:
        waiting = sorted((sample for sample in samples if sample.task_type is task), key=lambda sample: sample.id)
        rng(seed, "verify", "draw", task).shuffle(waiting)
        first = list({sample.generator: sample for sample in reversed(waiting)}.values())
        first.sort(key=lambda sample: sample.generator)
        taken = {sample.id for sample in first}
        drawn += [*first, *(sample for sample in waiting if sample.id not in taken)][:per_task]
    return drawn


def _summary(
    samples: Sequence[Sample],
    kept: Sequence[Sample],
    dropped: Sequence[Dropped],
    chosen: Sequence[Sample],
    verdicts: Mapping[str, Verdict],
) -> dict[str, Any]:
    per_task: dict[str, dict[str, Any]] = {}
    for task in TaskType:
        asked = [verdicts[sample.id] for sample in chosen if sample.task_type is task]
        per_task[str(task)] = {
            "samples": sum(sample.task_type is task for sample in samples),
            "kept": sum(sample.task_type is task for sample in kept),
            "model_checked": len(asked),
            "closed_book_mean": _mean_of([verdict.closed_book_mean for verdict in asked]),
            "pass_rate": _mean_of([verdict.pass_rate for verdict in asked]),
            "robust_pass_rate": _mean_of([verdict.robust_pass_rate for verdict in asked]),
        }
    reasons = Counter(record.reason for record in dropped)
    return {
        "counts": {
            "samples": len(samples),
            "kept": len(kept),
            "model_checked": len(chosen),
            "dropped": len(dropped),
        },
        "dropped": dict(reasons),
        "tasks": per_task,
    }


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
