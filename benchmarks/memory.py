"""The memory agent measured: linear time and flat memory to 4M tokens, what our own code costs, a full batch, scores by length.

    python -m benchmarks.memory --linear [0.5M,1M,2M,4M] --model DIR        CPU: seconds and memory with the scripted engine
    python -m benchmarks.memory --overhead --model DIR --turn-seconds 3     CPU: our code per turn, as a share of a GPU's turn
    python -m benchmarks.memory --share --model DIR --engine vllm           GPU: N trajectories against the same requests sent directly
    python -m benchmarks.memory --score 8K,64K,256K,1M,4M --model BASE --model TRAINED --engine vllm    GPU: needle and multi-hop
    python -m benchmarks.memory --sharing --model DIR                       CPU: tokens that a group's common sections save in training

--model: whose tokenizer (and weights) are used; without one the random model of the plumbing profile is made. K and M are
1,000 and 1,000,000. --json FILE keeps the figures. Nothing here needs prefect, dvc or mlflow.

--linear: each length in a process of its own, best of --rounds; processor seconds, since others share the machine. Peak
memory is that of the process less what it has when the engine stands and has answered once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.memory_parts import Lengths, make_document, open_corpus, scripted_engine, tokens_of  # noqa: E402
from stages.common.rollouts import Completion, GenerationRequest  # noqa: E402
from stages.memory.agent import MemoryAgent  # noqa: E402

QUESTION = "Which places are named, and what happened there?"


class TimedAgent(MemoryAgent):
    """The agent with a clock around the parts of its own work (seconds of the processor in the thread that does it)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.seconds = {"chunking": 0.0, "prompt and its tokens": 0.0, "parsing and caps": 0.0}
        super().__init__(*arguments, **options)

    def _sections(self, document: Any) -> Iterator[Any]:
        sections = super()._sections(document)
        while True:
            started = time.thread_time()
            section = next(sections, None)
            self.seconds["chunking"] += time.thread_time() - started
            if section is None:
                return
            yield section

    def _request(self, *arguments: Any, **options: Any) -> GenerationRequest:
        started = time.thread_time()
        request = super()._request(*arguments, **options)
        self.seconds["prompt and its tokens"] += time.thread_time() - started
        return request

    def _turn(self, *arguments: Any, **options: Any) -> Any:
        started = time.thread_time()
        turn = super()._turn(*arguments, **options)
        self.seconds["parsing and caps"] += time.thread_time() - started
        return turn


class ClockedEngine:
    """An engine that adds up the processor seconds spent in it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.tokenizer, self.max_model_tokens = engine.tokenizer, engine.max_model_tokens
        self.seconds = 0.0

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        started = time.thread_time()
        answers: list[list[Completion]] = self._engine.generate_all(requests)
        self.seconds += time.thread_time() - started
        return answers


def read_once(document: Path, model: Path, lengths: Lengths) -> dict[str, Any]:
    """Read a document with the scripted engine: seconds, turns, peak memory. Runs in a process of its own."""
    engine = ClockedEngine(scripted_engine(model, lengths))
    agent = TimedAgent(engine, *lengths)
    agent.answer(QUESTION, "Nothing happened.")
    engine.seconds = 0.0
    agent.seconds = dict.fromkeys(agent.seconds, 0.0)
    before = resident_mb()
    wall, started, here = time.perf_counter(), time.process_time(), time.thread_time()
    result = agent.answer(QUESTION, document)
    here = time.thread_time() - here
    seconds = time.process_time() - started
    wall = time.perf_counter() - wall
    per_turn = 1e3 / max(1, len(result.turns))
    return {
        "document_tokens": sum(turn.chunk_tokens for turn in result.turns),
        "turns": len(result.turns),
        "cpu_seconds": seconds,
        "wall_seconds": wall,
        "engine_cpu_seconds": engine.seconds,
        "ours_ms_per_turn": per_turn * (seconds - engine.seconds),
        "between_requests_ms_per_turn": per_turn * (here - engine.seconds),
        "parts_ms_per_turn": {name: per_turn * value for name, value in agent.seconds.items()},
        "resident_before_mb": before,
        "peak_above_engine_mb": peak_mb() - before,
        "parse_failures": result.counters["parse_failures"],
    }


def resident_mb() -> float:
    return _status("VmRSS")


def peak_mb() -> float:
    return _status("VmHWM")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise AssertionError(field)


def linear(model: Path, tokens: Sequence[int], lengths: Lengths, rounds: int, folder: Path) -> dict[str, Any]:
    """Best of `rounds` for every length, and how far seconds per token are from those of all lengths together."""
    rows = []
    documents = open_corpus(folder)
    for wanted in tokens:
        path = make_document(folder / f"{wanted}.txt", documents, model, wanted, seed=17)
        found = [_in_own_process(path, model, lengths) for _ in range(rounds)]
        best = min(found, key=lambda row: row["cpu_seconds"])
        best["peak_above_engine_mb"] = max(row["peak_above_engine_mb"] for row in found)
        rows.append(best | {"seconds_per_m_tokens": 1e6 * best["cpu_seconds"] / best["document_tokens"]})
        print(json.dumps(rows[-1]), flush=True)
    slope = sum(row["cpu_seconds"] for row in rows) / sum(row["document_tokens"] for row in rows)
    for row in rows:
        row["deviation"] = row["cpu_seconds"] / (slope * row["document_tokens"]) - 1
    return {"lengths": lengths._asdict(), "rounds": rounds, "rows": rows}


def _in_own_process(document: Path, model: Path, lengths: Lengths) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.memory", "--read-here", str(document), "--model", str(model)]
    for name, value in lengths._asdict().items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def overhead(model: Path, lengths: Lengths, turn_seconds: float, rounds: int, folder: Path) -> dict[str, Any]:
    """Our code's milliseconds per turn, best of `rounds`, and its share of a turn of `turn_seconds`.

    The next chunk is cut in a thread while the turn is generated: what delays a turn is the work between two requests.
    """
    path = make_document(folder / "overhead.txt", open_corpus(folder), model, 12 * lengths.chunk_tokens, seed=18)
    found = [_in_own_process(path, model, lengths) for _ in range(rounds)]
    best = min(found, key=lambda row: row["ours_ms_per_turn"])
    return {
        "lengths": lengths._asdict(),
        "rounds": rounds,
        "turns": best["turns"],
        "ours_ms_per_turn": best["ours_ms_per_turn"],
        "between_requests_ms_per_turn": best["between_requests_ms_per_turn"],
        "parts_ms_per_turn": best["parts_ms_per_turn"],
        "turn_seconds": turn_seconds,
        "share": best["between_requests_ms_per_turn"] / (1e3 * turn_seconds),
        "share_with_reading_ahead": best["ours_ms_per_turn"] / (1e3 * turn_seconds),
    }


def show_linear(found: dict[str, Any]) -> list[str]:
    """The rows as a Markdown table."""
    lines = [
        "| tokens | turns | s (CPU) | s per M tokens | from linear | our code, ms per turn | peak above the engine |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {row['document_tokens']:,} | {row['turns']} | {row['cpu_seconds']:.2f} | {row['seconds_per_m_tokens']:.2f} "
        f"| {row['deviation']:+.1%} | {row['ours_ms_per_turn']:.0f} | {row['peak_above_engine_mb']:.0f} MB |"
        for row in found["rows"]
    ]
    return lines


def show_overhead(found: dict[str, Any]) -> list[str]:
    """One line per part."""
    lines = [f"{name}: {value:.1f} ms per turn" for name, value in found["parts_ms_per_turn"].items()]
    lines.append(
        f"between two requests: {found['between_requests_ms_per_turn']:.1f} ms per turn = {found['share']:.2%} of "
        f"{found['turn_seconds']} s; with the chunk that is cut meanwhile: {found['ours_ms_per_turn']:.1f} ms = "
        f"{found['share_with_reading_ahead']:.2%}"
    )
    return lines


def main(words: Sequence[str] | None = None) -> None:
    """Arguments -> figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--linear", nargs="?", const="0.5M,1M,2M,4M", type=str, help="lengths to read")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--sharing", action="store_true")
    parser.add_argument("--timed", action="store_true", help="with --sharing: also rollouts and training in seconds")
    parser.add_argument("--score", metavar="LENGTHS", help="such as 8K,64K,256K,1M,4M")
    parser.add_argument("--read-here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, action="append", default=[], help="model folder; --score takes several")
    parser.add_argument(
        "--random-0.6b",
        dest="random_qwen",
        action="store_true",
        help="random weights of that shape, --model's tokenizer",
    )
    parser.add_argument("--chunk-tokens", type=int, default=32_768)
    parser.add_argument("--memory-tokens", type=int, default=4_096)
    parser.add_argument("--turn-tokens", type=int, default=5_632)
    parser.add_argument("--answer-tokens", type=int, default=512)
    parser.add_argument("--turn-seconds", type=float, default=3.0, help="of a turn on a GPU, for --overhead")
    parser.add_argument("--rounds", type=int, default=3, help="best of so many; for --share: times A-B-B-A")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="transformers")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--gpu-memory", type=float, default=0.85, help="share of the GPU's memory for vLLM")
    parser.add_argument("--window", type=int, help="tokens of the engine (default: what the lengths need)")
    parser.add_argument("--concurrent", type=int, default=64, help="trajectories, for --share; questions, for --score")
    parser.add_argument("--chunks", type=int, default=4, help="sections of each document, for --share")
    parser.add_argument("--questions", type=int, default=8, help="of each kind and length, for --score")
    parser.add_argument("--order", choices=("memory_first", "section_first"), default="memory_first")
    parser.add_argument("--sets", default="needle,multi_hop", help="for --score")
    parser.add_argument(
        "--records", type=Path, help="--score appends what the agent read and wrote here, as JSON lines"
    )
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--minutes", type=float, help="--score stops asking after so long; what is missing is told")
    parser.add_argument("--corpus", type=Path, help="documents.jsonl (default: the starter corpus)")
    parser.add_argument("--folder", type=Path, help="for texts and answers (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(words)
    lengths = Lengths(arguments.chunk_tokens, arguments.memory_tokens, arguments.turn_tokens, arguments.answer_tokens)
    if arguments.read_here:
        print(json.dumps(read_once(arguments.read_here, arguments.model[0], lengths)))
        return
    with tempfile.TemporaryDirectory(prefix="longfuse-memory-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found, lines = run(arguments, lengths, folder)
    for line in lines:
        print(line)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run(arguments: argparse.Namespace, lengths: Lengths, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What was asked for: figures by name, and lines to show."""
    found: dict[str, Any] = {}
    lines: list[str] = []
    models = arguments.model
    if not models:
        from stages.base_model.random_model import write_random_model

        models = [folder / "random_model"]
        write_random_model(models[0], 17)
    if arguments.random_qwen:
        from benchmarks.memory_parts import write_random_qwen

        models = [write_random_qwen(folder / "random_qwen", models[0], arguments.window or lengths.window)]
    if arguments.linear:
        wanted = [tokens_of(word) for word in arguments.linear.split(",")]
        found["linear"] = linear(models[0], wanted, lengths, arguments.rounds, folder)
        lines += show_linear(found["linear"])
    if arguments.overhead:
        found["overhead"] = overhead(models[0], lengths, arguments.turn_seconds, arguments.rounds, folder)
        lines += show_overhead(found["overhead"])
    if arguments.share:
        from benchmarks.memory_share import share, show_share

        found["share"] = share(arguments, models[0], lengths, folder)
        lines += show_share(found["share"])
    if arguments.sharing:
        from benchmarks.memory_sharing import sharing, show_sharing

        found["sharing"] = sharing(arguments, models[0], lengths, folder)
        lines += show_sharing(found["sharing"])
    if arguments.score:
        from benchmarks.memory_score import score, show_scores

        found["score"] = score(arguments, models, lengths, folder)
        lines += show_scores(found["score"])
    if not found:
        raise SystemExit("nothing to do: give --linear, --overhead, --share, --sharing or --score LENGTHS")
    return found, lines


if __name__ == "__main__":
    main()
