"""Tokens that a training step computes for a group of trajectories, by prompt order (benchmarks/memory.py --sharing).

G trajectories over one document with the scripted engine, every member with memories of its own; then the rows that the
trainer packs of them, against one sequence per turn. What depends on lengths only: no weights are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from benchmarks.memory_parts import Lengths, make_document, open_corpus
from stages.common.rollouts import GenerationRequest, Rollout, RolloutGroup
from stages.common.tokens import ChatTokenizer
from stages.engines.scripted_engine import ScriptedEngine
from stages.memory.agent import AgentResult, MemoryAgent
from stages.memory.prompts import PromptOrder
from stages.rl.packing import pack_groups, unshared_tokens

QUESTION = "Which places are named, and what happened there?"
GROUP_SIZE = 8


def sharing(arguments: argparse.Namespace, model: Path, lengths: Lengths, folder: Path) -> dict[str, Any]:
    """Packed and separate tokens of one group, for both orders."""
    tokenizer = ChatTokenizer(model)
    tokens = int(0.9 * arguments.chunks * lengths.chunk_tokens)
    document = make_document(folder / "sharing.txt", open_corpus(folder, arguments.corpus), model, tokens, seed=19)
    hay = tokenizer.encode_text(document.read_text(encoding="utf-8"))
    size = lengths.memory_tokens // 2
    # Memories of half the cap, of another place of the document for every member and turn.
    memories = {
        (m, t): tokenizer.decode(hay[(m * 97 + t * 1_009) :][:size]) for m in range(GROUP_SIZE) for t in range(64)
    }
    found: dict[str, Any] = {"lengths": lengths._asdict(), "group_size": GROUP_SIZE, "orders": {}}
    for order in get_args(PromptOrder):
        rollouts = []
        for member in range(GROUP_SIZE):
            result = _trajectory(document, lengths, order, tokenizer, memories, member)
            rollouts.append(Rollout(result.segments, result.text, 0.0))
        group = RolloutGroup("sharing", "numerical", 0, tuple(rollouts))
        packed = sum(row.num_tokens for row in pack_groups([group], 10**9))
        found["orders"][order] = {
            "turns": len(rollouts[0].segments) - 1,
            "separate_tokens": unshared_tokens([group]),
            "packed_tokens": packed,
            "share": packed / unshared_tokens([group]),
        }
    return found


def _trajectory(
    document: Path,
    lengths: Lengths,
    order: PromptOrder,
    tokenizer: ChatTokenizer,
    memories: dict[tuple[int, int], str],
    member: int,
) -> AgentResult:
    asked = 0

    def script(_: str, __: GenerationRequest, ___: int) -> str:
        nonlocal asked
        asked += 1
        return f"<memory>{memories[member, asked]}</memory><plan>Look for more places ({member}, {asked}).</plan>"

    engine = ScriptedEngine(script, tokenizer, max_model_tokens=lengths.window, keep_requests=False)
    agent = MemoryAgent(engine, *lengths, prompt_order=order)
    steps = agent.trajectory(QUESTION, document, "", member, keep_segments=True)
    request = next(steps)
    while True:
        (completion,) = engine.generate_all([request])[0]
        try:
            request = steps.send(completion)
        except StopIteration as finished:
            result: AgentResult = finished.value
            return result


def show_sharing(found: dict[str, Any]) -> list[str]:
    """One line per order."""
    return [
        f"{order}: {row['packed_tokens']:,} of {row['separate_tokens']:,} tokens ({row['share']:.1%}), "
        f"{row['turns']} turns, G = {found['group_size']}"
        for order, row in found["orders"].items()
    ]
