"""What a group of trajectories costs by prompt order (benchmarks/memory.py --sharing, with --timed also in seconds).

G trajectories over one document with the scripted engine, every member with memories of its own; then the rows that the
trainer packs of them, against one sequence per turn. What depends on lengths only: no weights are used.

--timed: the same requests, turn after turn for all members, given to the engine (--engine vllm; the prefix cache is emptied before
each run, replies of --turn-tokens), and forward and backward passes over the packed rows. Order A-B-B-A; wall time and, for a CPU
that others use too, processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from benchmarks.memory_parts import Lengths, make_document, open_corpus, open_engine
from benchmarks.memory_share import empty_prefix_cache, full_length
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
        (m, t): tokenizer.decode(hay[(m * 97 + t * 1_009) % max(1, len(hay) - size) :][:size])
        for m in range(GROUP_SIZE)
        for t in range(64)
    }
    found: dict[str, Any] = {"lengths": lengths._asdict(), "group_size": GROUP_SIZE, "orders": {}}
    groups: dict[str, RolloutGroup] = {}
    for order in get_args(PromptOrder):
        rollouts = []
        for member in range(GROUP_SIZE):
            result = _trajectory(document, lengths, order, tokenizer, memories, member)
            rollouts.append(Rollout(result.segments, result.text, 0.0))
        group = groups[order] = RolloutGroup("sharing", "numerical", 0, tuple(rollouts))
        packed = sum(row.num_tokens for row in pack_groups([group], 10**9))
        found["orders"][order] = {
            "turns": len(rollouts[0].segments) - 1,
            "separate_tokens": unshared_tokens([group]),
            "packed_tokens": packed,
            "share": packed / unshared_tokens([group]),
        }
    if arguments.timed:
        timed = {"rollouts": _rollout_times(arguments, model, lengths, groups)}
        timed["training"] = _training_times(model, arguments.dtype, groups)
        for order in groups:
            found["orders"][order]["seconds"] = {part: seconds[order] for part, seconds in timed.items()}
    return found


def _rollout_times(
    arguments: argparse.Namespace, model: Path, lengths: Lengths, groups: dict[str, RolloutGroup]
) -> dict[str, list[tuple[float, float]]]:
    engine = open_engine(
        arguments.engine, model, arguments.dtype, arguments.window or lengths.window, arguments.gpu_memory
    )
    full_length(engine)

    def generate(group: RolloutGroup) -> None:
        for turn in range(len(group.rollouts[0].segments)):
            segments = [rollout.segments[turn] for rollout in group.rollouts]
            engine.generate_all(
                [
                    GenerationRequest(
                        prompt_ids=segment.prompt_ids, max_tokens=lengths.turn_tokens, temperature=0.7, seed=member
                    )
                    for member, segment in enumerate(segments)
                ]
            )

    times = _there_and_back(groups, generate, before=lambda: empty_prefix_cache(engine))
    engine.close()
    return times


def _training_times(model: Path, dtype: str, groups: dict[str, RolloutGroup]) -> dict[str, list[tuple[float, float]]]:
    import torch

    from stages.rl.batch import Batch, turn_weights
    from stages.rl.policy import LossWeights, OptimizerSettings
    from stages.rl.torch_policy import TorchPolicy

    policy = TorchPolicy(
        model,
        compute_dtype=dtype,
        temperature=1.0,
        learning_rate=1e-6,
        optimizer=OptimizerSettings(0.9, 0.95, 1e-8, 0.0, 1.0),
    )
    advantages = torch.linspace(-1.0, 1.0, GROUP_SIZE, dtype=torch.float64)

    def train(group: RolloutGroup) -> None:
        batch = Batch([group])
        weight_BT, tokens = turn_weights(batch, "token")
        rows = pack_groups([group], 10**9, policy.trees_per_row)
        policy.accumulate(rows, advantages, LossWeights(weight_BT, batch.group_ids_B, tokens, 1, "group"))
        if policy.device.type == "cuda":
            torch.cuda.synchronize()

    return _there_and_back(groups, train)


def _there_and_back(
    groups: dict[str, RolloutGroup], work: Callable[[RolloutGroup], None], before: Callable[[], None] = lambda: None
) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of `work` in the order A-B-B-A, by name, after a run on the first that is not counted."""
    names = list(groups)
    work(groups[names[0]])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in [*names, *reversed(names)]:
        before()
        wall, busy = time.perf_counter(), time.process_time()
        work(groups[name])
        seconds[name].append((time.perf_counter() - wall, time.process_time() - busy))
    return seconds


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
    """One line per order, and one per part that was timed."""
    lines = [
        f"{order}: {row['packed_tokens']:,} of {row['separate_tokens']:,} tokens ({row['share']:.1%}), "
        f"{row['turns']} turns, G = {found['group_size']}"
        for order, row in found["orders"].items()
    ]
    for order, row in found["orders"].items():
        for part, seconds in row.get("seconds", {}).items():
            for name, values in zip(("wall", "processor"), zip(*seconds, strict=True), strict=True):
                each = ", ".join(f"{value:.2f}" for value in values)
                lines.append(f"{order}: {part}, {name} {statistics.mean(values):.2f} s ({each})")
    return lines
