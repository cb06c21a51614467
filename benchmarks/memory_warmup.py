"""Teach a small model the memory agent's own form with supervised traces, before RL or instead of it, for benchmarks/memory.py --score.

    python -m benchmarks.memory_warmup --model DIR --out DIR --steps 120 [--samples 200] [--tokens 0.6K,2.6K] [--json FILE]

The sft stage that the pipeline runs, with `sft.agent_samples`: samples are made here, half of them one magic number, half a chain of four
facts, in real paragraphs (the forms of the benchmark's --score, with other seeds, so other names, numbers and hay). Texts are short, a
few sections each. Settings are those of params.yaml but for what stands in `settings`. The trained model is DIR/model.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.memory_parts import tokens_of
from benchmarks.memory_texts import hidden_samples
from stages.common.storage import write_jsonl, write_model_pointer
from stages.evaluation.benchmarks.ultra_long import multi_hop_task, needle_task
from stages.sft.config import SftStage
from stages.sft.stage import run

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"
SEED = 211  # the benchmark asks with seed 17 or so, RL trains with 101


def write_samples(folder: Path, model: Path, shortest: int, longest: int, samples: int) -> None:
    """samples.jsonl and documents.jsonl below `folder`."""
    makers = [needle_task, multi_hop_task]
    documents, made = hidden_samples(folder, model, makers, (shortest, longest), samples, SEED, "warm-up")
    write_jsonl(folder / "documents.jsonl", documents)
    write_jsonl(folder / "samples.jsonl", made)


def settings(arguments: argparse.Namespace) -> SftStage:
    """The sft stage's parameters: params.yaml, with the lengths and sizes of this run."""
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    names = ("chunk_tokens", "memory_tokens", "turn_tokens", "answer_tokens")
    agent = params["sft"]["agent"] | {name: getattr(arguments, name) for name in names}
    sft = params["sft"] | {
        "enabled": True,
        "steps": arguments.steps,
        "batch_size": arguments.batch,
        "learning_rate": arguments.learning_rate,
        "warmup_steps": arguments.warmup_steps,
        "max_tokens": arguments.max_tokens,
        "trace": "none",
        "agent_samples": arguments.samples,
        "agent": agent | {"prompt_order": arguments.order},
        "checkpoint_every_steps": max(1, arguments.steps // 4),
    }
    train = params["train"]
    engine = train["engine"] | {"kind": "transformers"}
    train |= {"engine": engine, "compute_dtype": arguments.dtype, "cpu_threads": arguments.threads}
    return SftStage.model_validate({"sft": sft, "train": train, "seed": SEED})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=4, help="turns and answers of a step")
    parser.add_argument("--samples", type=int, default=200, help="texts, one question each")
    parser.add_argument("--tokens", default="0.6K,2.6K", help="shortest and longest text")
    parser.add_argument("--learning-rate", type=float, default=6e-5)
    parser.add_argument("--warmup-steps", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a turn, prompt and response")
    parser.add_argument("--chunk-tokens", type=int, default=768)
    parser.add_argument("--memory-tokens", type=int, default=160)
    parser.add_argument("--turn-tokens", type=int, default=224)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--order", choices=("memory_first", "section_first"), default="memory_first")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    shortest, longest = (tokens_of(word) for word in arguments.tokens.split(","))
    lines: list[dict[str, float]] = []

    def emit(step: int, metrics: Mapping[str, float]) -> None:
        lines.append({"step": step, **metrics})

    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "base").mkdir()
        write_model_pointer(folder / "base", arguments.model.resolve())
        write_samples(folder, arguments.model, shortest, longest, arguments.samples)
        inputs = {
            "base_model": folder / "base",
            "samples": folder / "samples.jsonl",
            "documents": folder / "documents.jsonl",
        }
        counts: dict[str, Any] = run(settings(arguments), inputs, arguments.out, folder / "state", emit)
    counts["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(counts))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"counts": counts, "steps": lines}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
