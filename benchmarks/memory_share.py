"""N concurrent trajectories of the agent against the same requests sent straight to the engine (benchmarks/memory.py --share).

agent    N trajectories over N different documents, each at its own pace
chained  the agent's requests, recorded: the next of a trajectory goes to the engine when the one before is answered, so as
         many are under way as with the agent, and nothing of ours is in between
at once  the same requests, all given to the engine at the beginning

Order agent, chained, at once, at once, chained, agent, repeated; the prefix cache is emptied before each. Every answer has
its full length, so all runs generate the same number of tokens. vLLM is fed and stepped in its own thread, without ours.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory_parts import Lengths, make_document, open_corpus, open_engine
from stages.common.rollouts import Completion, GenerationRequest
from stages.memory.agent import MemoryAgent

QUESTION = "Which places are named, and what happened there?"
WAYS = ("agent", "chained", "at once")


class Recorder:
    """Asks the engine for one trajectory, and keeps its requests. seconds: of each."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.requests: list[GenerationRequest] = []
        self.response_tokens = 0
        self.seconds: list[float] = []

    async def ask(self, request: GenerationRequest) -> list[Completion]:
        started = time.perf_counter()
        answers: list[Completion] = await self._engine.generate(request)
        self.seconds.append(time.perf_counter() - started)
        self.requests.append(request)
        self.response_tokens += sum(len(answer.token_ids) for answer in answers)
        return answers

    @property
    def tokens(self) -> int:
        return self.response_tokens + sum(len(request.prompt_ids) for request in self.requests)


def run_agent(agent: MemoryAgent, engine: Any, documents: Sequence[Path]) -> list[Recorder]:
    """All documents at once; what each trajectory asked."""
    recorders = [Recorder(engine) for _ in documents]

    async def all_of_them() -> None:
        await asyncio.gather(
            *(
                agent.finish(agent.trajectory(QUESTION, document, "", seed), generate=recorder.ask)
                for seed, (document, recorder) in enumerate(zip(documents, recorders, strict=True))
            )
        )

    asyncio.run(all_of_them())
    return recorders


def run_direct(engine: Any, chains: Sequence[Sequence[GenerationRequest]], at_once: bool) -> int:
    """Tokens of prompts and answers. at_once: nothing waits for the request before it."""
    prompt_tokens = sum(len(request.prompt_ids) for chain in chains for request in chain)
    if not hasattr(engine, "_backend"):
        return prompt_tokens + _direct_transformers(engine, chains, at_once)
    answered: int = engine._thread.call("direct", lambda: _direct_vllm(engine._backend, chains, at_once))
    return prompt_tokens + answered


def _direct_vllm(backend: Any, chains: Sequence[Sequence[GenerationRequest]], at_once: bool) -> int:
    """Runs in vLLM's own thread: no other code of ours takes part."""
    waiting = [deque(chain) for chain in chains]
    tokens = 0
    for number, chain in enumerate(waiting):
        for place in range(len(chain) if at_once else 1):
            backend.add(f"direct-{number}-{place}", chain.popleft())
    while backend._engine.has_unfinished_requests():
        for name, answers in backend.step():
            tokens += sum(len(answer.token_ids) for answer in answers)
            _, number, place = name.split("-")
            if waiting[int(number)]:
                backend.add(f"direct-{number}-{int(place) + 1}", waiting[int(number)].popleft())
    return tokens


def _direct_transformers(engine: Any, chains: Sequence[Sequence[GenerationRequest]], at_once: bool) -> int:
    """The transformers engine works in the caller's thread: a list is what it takes, a chain is turn after turn."""
    if at_once:
        batches = [[request for chain in chains for request in chain]]
    else:
        longest = max(len(chain) for chain in chains)
        batches = [[chain[turn] for chain in chains if turn < len(chain)] for turn in range(longest)]
    answers = [answer for batch in batches for group in engine.generate_all(batch) for answer in group]
    return sum(len(answer.token_ids) for answer in answers)


def full_length(engine: Any) -> None:
    """Answers end at their limit only."""
    if hasattr(engine, "_backend"):
        engine._backend._end_ids = []
    else:
        engine._end_ids = frozenset()


def empty_prefix_cache(engine: Any) -> None:
    if hasattr(engine, "_backend"):
        engine._thread.call("emptying", engine._backend._engine.reset_prefix_cache)


def share(arguments: argparse.Namespace, model: Path, lengths: Lengths, folder: Path) -> dict[str, Any]:
    """Tokens per second of the three ways, and the ratios."""
    corpus = open_corpus(folder, arguments.corpus)
    # A section is up to a quarter shorter than the limit; a little less than the wanted number, so that none is tiny.
    tokens = int(0.9 * arguments.chunks * lengths.chunk_tokens)
    documents = [
        make_document(folder / f"share-{number}.txt", corpus, model, tokens, seed=number)
        for number in range(arguments.concurrent)
    ]
    engine = open_engine(
        arguments.engine, model, arguments.dtype, arguments.window or lengths.window, arguments.gpu_memory
    )
    full_length(engine)
    agent = MemoryAgent(engine, *lengths, temperature=arguments.temperature, prompt_order=arguments.order)
    run_agent(agent, engine, documents)  # warm: the first full batch costs several seconds more, whoever asks
    chains: list[list[GenerationRequest]] = []
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    turns: list[float] = []
    for way in [*WAYS, *reversed(WAYS)] * arguments.rounds:
        empty_prefix_cache(engine)
        started = time.perf_counter()
        if way == "agent":
            recorders = run_agent(agent, engine, documents)
            took = time.perf_counter() - started
            done = sum(recorder.tokens for recorder in recorders)
            chains = [recorder.requests for recorder in recorders]
            turns += [second for recorder in recorders for second in recorder.seconds[:-1]]
        else:
            done = run_direct(engine, chains, way == "at once")
            took = time.perf_counter() - started
        rates[way].append(done / took)
        seconds[way].append(took)
        print(f"{way}: {done} tokens in {took:.2f} s", flush=True)
    empty_prefix_cache(engine)
    alone_started = time.perf_counter()
    alone = run_agent(agent, engine, documents[:1])[0]
    alone_seconds = time.perf_counter() - alone_started
    engine.close()
    median = {way: statistics.median(values) for way, values in rates.items()}
    return {
        "engine": arguments.engine,
        "model": model.name,
        "lengths": lengths._asdict(),
        "trajectories": len(documents),
        "requests": sum(len(chain) for chain in chains),
        "prompt_tokens": sum(len(request.prompt_ids) for chain in chains for request in chain),
        "tokens_per_second": median,
        "seconds": seconds,
        "agent_to_chained": median["agent"] / median["chained"],
        "agent_to_at_once": median["agent"] / median["at once"],
        "turn_seconds_median": statistics.median(turns),
        "turn_seconds_alone": statistics.median(alone.seconds[:-1]),
        "outside_engine_alone_ms_per_turn": 1e3 * (alone_seconds - sum(alone.seconds)) / max(1, len(alone.seconds)),
    }


def show_share(found: dict[str, Any]) -> list[str]:
    """Rates and ratios."""
    lines = [f"{way}: {rate:,.0f} tokens/s (median)" for way, rate in found["tokens_per_second"].items()]
    lines.append(
        f"agent / chained = {found['agent_to_chained']:.3f}, agent / at once = {found['agent_to_at_once']:.3f}"
    )
    lines.append(
        f"a turn takes {found['turn_seconds_median']:.2f} s beside {found['trajectories'] - 1} others, alone "
        f"{found['turn_seconds_alone']:.2f} s, and {found['outside_engine_alone_ms_per_turn']:.0f} ms outside the engine"
    )
    return lines
