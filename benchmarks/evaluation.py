"""Scores one model on every benchmark whose data are at hand and writes the table: docs/results/base_model_scores.md.

python -m benchmarks.evaluation --model DIR --data DIR --corpus DIR --out DIR [--generated 12] [--page docs/results/X.md]

The same code as `longfuse eval`, so an interrupted run goes on where it was: run the command again. Every row of the
files at hand is asked, of the generated sets a few; a small window and one answer per question, so that it fits a laptop.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.eval_request import EvalRequest
from flows.evaluation import evaluate_request
from stages.evaluation.benchmarks.catalogue import BENCHMARKS
from stages.evaluation.benchmarks.ultra_long import ULTRA_LONG

MAX_INPUT_TOKENS = 2_048
MAX_OUTPUT_TOKENS = 128
GENERATED_TOKENS = 1_024
GENERATED = ("ruler", "babilong", "graphwalks", "needle", "dialogue_recall", "mrcr_made", "corpus_numerical")
# heldout belongs to a run of the pipeline; the ultra-long sets are for the memory agent (benchmarks/memory.py).
NOT_HERE = ("heldout", *(benchmark.name for benchmark in ULTRA_LONG))
PARTS = ("full_context", "closed_book", "generated")
CLOSED_BOOK_TOO = ("frames",)  # its pages are rarely at hand


def run(arguments: argparse.Namespace) -> float:
    """Ask what is not answered yet; seconds of this process."""
    started = time.process_time()
    groups: dict[str, list[str]] = {part: [] for part in PARTS}
    for benchmark in BENCHMARKS:
        if benchmark.name in GENERATED:
            groups["generated"].append(benchmark.name)
        elif benchmark.name not in NOT_HERE:
            groups["full_context" if "full_context" in benchmark.modes else "closed_book"].append(benchmark.name)
        if benchmark.name in CLOSED_BOOK_TOO:
            groups["closed_book"].append(benchmark.name)
    for part, names in groups.items():
        request = EvalRequest(
            benchmarks=tuple(names),
            model=arguments.model,
            modes=("closed_book" if part == "closed_book" else "full_context",),
            samples=1,
            limit=arguments.generated if part == "generated" else None,
            data=arguments.data,
            hub=False,
            corpus=arguments.corpus,
            out=arguments.out / part,
            endpoint=None,
            endpoint_model=None,
            endpoint_key_env=None,
            budget_tokens=None,
            window=None,
            judge_endpoint=None,
            judge_model=None,
            judge_key_env=None,
            max_input_tokens=MAX_INPUT_TOKENS,
            max_output_tokens=MAX_OUTPUT_TOKENS,
            reasoning_tokens=0,
            temperature=0.7,
            top_p=0.95,
            seed=17,
            lengths=(GENERATED_TOKENS,),
            chunk_tokens=None,
            memory_tokens=None,
            engine=arguments.engine,
            dtype="bfloat16",
            threads=arguments.threads,
            tokenizer=None,
        )
        evaluate_request(request, say=lambda text: sys.stdout.write(text + "\n"))
    return time.process_time() - started


def page(out: Path, model: str, generated: int, engine: str) -> str:
    """The Markdown page of what lies in `out`."""
    scores = [json.loads((out / part / "scores.json").read_text()) for part in PARTS]
    rows = [row for score in scores for row in score["scores"]]
    answers = [
        json.loads(line) for part in PARTS for line in (out / part / "predictions.jsonl").read_text().splitlines()
    ]
    lines = [
        f"# {model} on every benchmark sample at hand",
        "",
        f"Made by `python -m benchmarks.evaluation` (every row of the files, {generated} questions of each generated set): {len(answers):,} answers,"
        f" {sum(answer['prompt_tokens'] for answer in answers):,} prompt tokens,"
        f" {sum(answer['response_tokens'] for answer in answers):,} generated ones. bfloat16 on a CPU ({engine}); prompts of at most"
        f" {MAX_INPUT_TOKENS:,} tokens (longer contexts lose their middle), responses of at most {MAX_OUTPUT_TOKENS}; temperature"
        " 0.7, top-p 0.95, one answer per question, seed 17; generated sets with contexts of"
        f" {GENERATED_TOKENS:,} tokens; no judge, so free text is scored by rule alone.",
        "",
        "Scores are times 100, with 95 % intervals over questions (bootstrap; Wilson's where there are fewer than 10 questions or"
        " all scores are equal). The samples are small; they show that every benchmark runs end to end, and"
        " where a model of this size stands: near the floor wherever more is asked than one look-up.",
        "",
        "| benchmark | mode | metric | n | score | 95 % interval | contexts cut | answers at the token limit | other metrics |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in rows]
    skipped = [entry for score in scores for entry in score["skipped"]]
    broken = [entry for score in scores for entry in score["broken_rows"]]
    lines += ["", "Not asked:", ""] + [f"- {entry['benchmark']}: {entry['reason']}" for entry in skipped]
    if broken:
        lines += ["", "Broken rows, left out:", ""] + [f"- {entry['benchmark']}: {entry['count']}" for entry in broken]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    known = row["mean"] is not None
    cells = [
        row["benchmark"],
        row["mode"],
        row["metric"],
        str(row["n"]),
        f"{100 * row['mean']:.1f}" if known else "-",
        f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}" if known else "-",
        str(row["context_cut"]),
        str(row["cut_answers"]),
        ", ".join(f"{name} {100 * value:.1f}" for name, value in row["metrics"].items()),
    ]
    return "| " + " | ".join(cells) + " |"


def main(words: Sequence[str] | None = None) -> None:
    """Arguments -> results and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", default="SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--generated", type=int, default=12, help="questions of each generated set")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, default=Path("docs/results/base_model_scores.md"))
    arguments = parser.parse_args(words)
    seconds = run(arguments)
    arguments.page.write_text(
        page(arguments.out, arguments.name, arguments.generated, arguments.engine), encoding="utf-8"
    )
    sys.stdout.write(f"{arguments.page} written; {seconds:.0f} s of CPU time in this process\n")


if __name__ == "__main__":
    main()
