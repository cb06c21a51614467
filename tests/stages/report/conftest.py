"""Inputs of the report stage in the formats that the other stages write, with hostile text in the predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODELS = ("base", "sft", "stage1", "stage2", "stage3", "memory", "merge", "stage4")
TASKS = ("multi_hop", "numerical", "reading_comprehension", "dialogue_memory", "multiple_choice")
WITH_AGENT = ("base", "stage3", "memory", "merge", "stage4")
HOSTILE = "</dd><script>alert(1)</script> | `code` ``` <img src=x onerror=alert(2)> [x](http://example.com) \u202e\x00\nnew line"


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score(benchmark: str, mean: float, half: float, n: int, mode: str = "full_context") -> dict:
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {
        "benchmark": benchmark,
        "mode": mode,
        "metric": "reward",
        "n": n,
        "mean": mean,
        "ci_low": low,
        "ci_high": high,
    }


def prediction(sample_id: str, task: str, text: str, points: float, question: str = "What is it?") -> dict:
    return {
        "benchmark": f"heldout/{task}",
        "mode": "full_context",
        "sample_id": sample_id,
        "task_type": task,
        "question": question,
        "gold": ["12.5", "13"] if task == "multi_hop" else "12.5",
        "prediction": text,
        "score": points,
        "prompt_tokens": 431,
        "response_tokens": 7,
        "evidence_position": 0.4,
    }


def _scores(model: str) -> list[dict]:
    level = 0.10 + 0.08 * MODELS.index(model)
    n = {"base": 12, "sft": 12, "stage4": 12}.get(model, 3)
    rows = [score(f"heldout/{task}", level, 0.28 if n == 12 else 0.45, n) for task in TASKS]
    if model in ("sft", "stage4"):
        rows[1] = score("heldout/numerical", 0.75, 0.09, 100)
    elif model == "base":
        rows[1] = score("heldout/numerical", 0.12, 0.07, 100)
    rows += [score(f"needle/{length}", level, 0.4, 4) for length in (512, 256)]
    rows += [score(f"dialogue/{length}", level / 2, 0.4, 2) for length in (256, 512)]
    rows.append(score("mmlu_pro", 0.31, 0.2, 12, mode="closed_book"))
    if model in WITH_AGENT:
        rows += [score(f"heldout/{task}", level / 2, 0.5, 1, mode="memory_agent") for task in TASKS]
    return rows


def _rl_step(step: int, base: float) -> dict:
    tasks = {f"reward/{task}/mean": base + 0.05 * i for i, task in enumerate(TASKS)}
    return {
        "step": step,
        "aepo/masking": float(step % 2),
        "aepo/negatives_masked": 3.0 * (step % 2),
        "entropy/seq_mean": 0.4 - 0.05 * step,
        "entropy/token_mean": 0.38,
        "grad_norm": 1.25,
        "len/response/max": 24.0,
        "len/response/mean": 9.5 + step,
        "len/response/p95": 22.0,
        "len/truncated_frac": 0.125,
        "loss/policy": -0.01 * step,
        "progress/prompts": 5.0 * (step + 1),
        "reward/mean": base + 0.1,
        **tasks,
    }


def build_inputs(root: Path) -> dict[str, Path]:
    """All inputs of the report stage below `root`, named as in the catalog."""
    inputs: dict[str, Path] = {}
    for model in MODELS:
        folder = inputs[f"evaluate_{model}"] = root / "evaluate" / model
        write_json(folder / "scores.json", {"model": model, "scores": _scores(model)})
        rows = []
        for task in TASKS:
            for i in range(4):
                right = i % 2 == (0 if model == "stage4" else 1)
                question = f"In the balance sheet of 2023, what is item {i} for {task}? " + (HOSTILE if i == 0 else "")
                rows.append(prediction(f"{task}-{i:012x}", task, HOSTILE if i == 1 else "12.5", float(right), question))
        write_lines(folder / "predictions.jsonl", rows)
    write_lines(
        root / "sft.jsonl",
        [{"step": i, "loss/sft": 2.0 / (i + 1), "grad_norm": 1.0, "progress/tokens": 900.0 * i} for i in range(40)],
    )
    inputs["metrics_sft"] = root / "sft.jsonl"
    for i, stage in enumerate(("stage1", "stage2", "stage3", "memory", "stage4")):
        path = inputs[f"metrics_{stage}"] = root / f"{stage}.jsonl"
        write_lines(path, [_rl_step(step, 0.3 + 0.05 * i) for step in range(2)])
    inputs["merge"] = root / "merge.json"
    write_json(
        inputs["merge"],
        {
            "method": "sce",
            "select_topk": 1.0,
            "weighting": "scale_free",
            "experts": ["stage3", "memory"],
            "summary": {
                "changed_tensors": 272.0,
                "erased_fraction": 0.2143,
                "cosine": 0.41,
                "weight_stage3": 0.61,
                "weight_memory": 0.39,
            },
            "tensors": [
                {"name": "lm_head.weight", "parameters": 12, "copied": True},
                *(
                    {
                        "name": f"model.layers.{i}.mlp.up_proj.weight",
                        "parameters": 884736,
                        "weights": [0.6, 0.4],
                        "delta_rms": [1.2e-05 * (i + 1), 9.1e-06],
                        "erased_fraction": 0.2,
                        "cosine": 0.4,
                    }
                    for i in range(9)
                ),
            ],
        },
    )
    summaries = {
        "ingest": {
            "counts": {"files": 106, "skipped": 5, "documents": 74, "dropped": 2, "tokens": 854527},
            "dropped": {"not_utf8": 1, "too_short": 1},
            "categories": {
                name: {"documents": 10 + i, "characters": 100000 * i, "tokens": 30000 * i}
                for i, name in enumerate(("academic", "code", "dialogues", "general", "professional"))
            },
            "formats": {"markdown": 54, "csv": 5, "text": 11, "python": 4},
        },
        "assemble": {
            "counts": {"samples": 1062, "dropped": 38, "documents": 74},
            "dropped": {"context_too_small": 38},
            "samples_per_task": {task: 200 + i for i, task in enumerate(TASKS)},
            "context_tokens": {"min": 300, "mean": 398.1, "median": 400, "max": 480},
            "documents_per_context": 4.31,
        },
        "verify": {
            "counts": {"samples": 1062, "kept": 950, "model_checked": 100, "dropped": 112},
            "dropped": {"answered_without_documents": 9, "evidence_mismatch": 3},
            "tasks": {
                task: {"samples": 200, "kept": 190, "model_checked": 20, "closed_book_mean": 0.05, "pass_rate": None}
                for task in TASKS
            },
        },
        "stratify": {
            "counts": {"samples": 950, "train": 60, "sft": 170, "heldout": 196, "shortfall": 4},
            "shortfalls": [{"split": "sft", "task": "dialogue_memory", "found": 6, "wanted": 10}],
            "splits": {split: dict.fromkeys(TASKS, 12) for split in ("heldout", "train", "sft")},
            "generators": {split: {f"rule_{i}": i for i in range(9)} for split in ("heldout", "train", "sft")},
        },
    }
    inputs["bins"] = root / "bins.json"
    edges = [0.0, 0.25, 0.5, 0.75, 1.0]
    write_json(inputs["bins"], {t: {"edges": edges, "available": [80, 2, 1, 3], "drawn": [8, 2, 1, 1]} for t in TASKS})
    for name, summary in summaries.items():
        inputs[name] = root / name / "summary.json"
        write_json(inputs[name], summary)
    return inputs


@pytest.fixture(scope="session")
def shared_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For tests that only read."""
    return build_inputs(tmp_path_factory.mktemp("report") / "inputs")


@pytest.fixture
def report_inputs(tmp_path: Path) -> dict[str, Path]:
    return build_inputs(tmp_path / "inputs")
