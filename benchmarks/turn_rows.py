"""Forward and backward pass of rows of single sequences (turns of the memory agent, supervised examples) on one CUDA device.

    python -m benchmarks.turn_rows [--out FILE]

Each step has sequences of new lengths, as training has, so kernels that are built per shape are built again and again. With a
trunk, a sequence is cut as the prompt of a group is (stages/rl/tree_layout.py); without, all sequences of a row are one ragged
call. Qwen3 shape of 0.6B as in benchmarks/prefix_tree.py, answers of 48 tokens. Order A-B-B-A, other lengths each time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.prefix_tree import make_model, update
from stages.rl import tree_layout
from stages.rl.packing import Branch, PackedRow, Tree, pack_trees

ANSWER = 48
VOCABULARY = 49_152
CASES = {"4K": (1_500, 4_400, 16), "12K": (8_500, 13_000, 6), "20K": (16_500, 21_000, 4), "36K": (33_000, 37_000, 2)}
ALWAYS, NEVER = tree_layout.MIN_TRUNK_TOKENS, 1 << 40


def row_of(chance: random.Random, shortest: int, longest: int, sequences: int) -> PackedRow:
    """Random tokens; lengths are those of the prompts."""

    def draw(count: int) -> tuple[int, ...]:
        return tuple(chance.choices(range(10, VOCABULARY), k=count))

    trees = [
        Tree(draw(chance.randint(shortest, longest)), (Branch(draw(ANSWER), number, 0),)) for number in range(sequences)
    ]
    (row,) = pack_trees(trees, 10**9)
    return row


def seconds_of(model: Any, rows: list[PackedRow], sequences: int) -> list[float]:
    found = []
    for row in rows:
        torch.cuda.synchronize()
        started = time.perf_counter()
        update(model, [row], "tree", advantages=torch.ones(sequences), tokens_per_group=sequences * ANSWER)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="of each way, twice")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = make_model(VOCABULARY)
    chance = random.Random(5)
    found = []
    for name, (shortest, longest, sequences) in CASES.items():
        seconds: dict[int, list[float]] = {ALWAYS: [], NEVER: []}
        tokens = []
        for least in (NEVER, ALWAYS, ALWAYS, NEVER):
            tree_layout.MIN_LONE_TRUNK_TOKENS = least
            rows = [row_of(chance, shortest, longest, sequences) for _ in range(arguments.steps)]
            tokens += [row.num_tokens for row in rows]
            seconds[least] += seconds_of(model, rows, sequences)
        line = {"prompts": name, "sequences": sequences, "tokens": statistics.mean(tokens)}
        for way, least in (("trunks", ALWAYS), ("ragged", NEVER)):
            line |= {
                f"{way}_mean_s": statistics.mean(seconds[least]),
                f"{way}_median_s": statistics.median(seconds[least]),
            }
        print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in line.items()}), flush=True)
        found.append(line)
    if arguments.out:
        arguments.out.write_text(json.dumps({"device": torch.cuda.get_device_name(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
