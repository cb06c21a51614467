"""The memory agent as a rollout source for the training loop: G trajectories per prompt, K + 1 segments each.

Each trajectory is a coroutine of its own: a short document does not wait for a long one, whatever asks at the same time
shares the engine's batch. All G trajectories of a prompt begin with the same prompt (first chunk, empty memory), so it
is asked once with n = G. The reward of the final answer is the trajectory's; advantages are the trainer's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from stages.common.prompts import answer_instruction, core_question, materialise_context
from stages.common.records import Sample
from stages.common.rollouts import Rollout, RolloutGroup
from stages.common.seeds import derive_seed
from stages.common.storage import DocumentStore
from stages.engines.base import RolloutEngine
from stages.memory.agent import AgentResult, MemoryAgent
from stages.memory.config import MemoryAgentConfig
from stages.rewards.hybrid import reward


class MemoryRolloutSource:
    """Reads each sample's context with the memory agent, G times (a RolloutSource, see stages/rl/rollout.py).

    reward_seconds: time spent on rewards in the last call.
    Rollout.counters: turns, parse_failures, truncated_turns, memory_cuts.
    Raises InputError if the agent's lengths do not fit into the engine's window.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        documents: DocumentStore,
        agent: MemoryAgentConfig,
        *,
        group_size: int,
        temperature: float,
        top_p: float,
        seed: int,
    ) -> None:
        self._engine = engine
        self._documents = documents
        self._agent = MemoryAgent(
            engine,
            agent.chunk_tokens,
            agent.memory_tokens,
            agent.turn_tokens,
            agent.answer_tokens,
            temperature=temperature,
            top_p=top_p,
        )
        self._group_size = group_size
        self._seed = seed
        self.reward_seconds = 0.0

    def __call__(self, samples: Sequence[Sample], step: int, attempt: int = 0) -> list[RolloutGroup]:
        """One group per sample, in order; `group_id` is the sample's place in `samples`."""

        async def gather() -> list[list[AgentResult]]:
            return await asyncio.gather(
                *(
                    self._trajectories(
                        sample, derive_seed(self._seed, "memory_rollout", step, attempt, place, sample.id)
                    )
                    for place, sample in enumerate(samples)
                )
            )

        results = asyncio.run(gather())
        started = time.perf_counter()
        groups = [
            RolloutGroup(
                sample_id=sample.id,
                task_type=sample.task_type.value,
                group_id=place,
                rollouts=tuple(
                    Rollout(result.segments, result.text, reward(sample, result.text), result.counters)
                    for result in group
                ),
            )
            for place, (sample, group) in enumerate(zip(samples, results, strict=True))
        ]
        self.reward_seconds = time.perf_counter() - started
        return groups

    async def _trajectories(self, sample: Sample, seed: int) -> list[AgentResult]:
        """The G trajectories of one prompt."""
        document = materialise_context(sample, self._documents)
        steps = [
            self._agent.trajectory(
                core_question(sample),
                document,
                answer_instruction(sample),
                derive_seed(seed, member),
                keep_segments=True,
            )
            for member in range(self._group_size)
        ]
        first = [next(trajectory) for trajectory in steps]
        assert all(request.prompt_ids == first[0].prompt_ids for request in first)
        completions = await self._engine.generate(replace(first[0], n=self._group_size))
        return await asyncio.gather(
            *(
                self._agent.finish(trajectory, completion)
                for trajectory, completion in zip(steps, completions, strict=True)
            )
        )
