"""The memory agent as a rollout source for the training loop: G trajectories per prompt, K + 1 segments each.

Each trajectory is a coroutine of its own: a short document does not wait for a long one, whatever asks at the same time
shares the engine's batch (on a CPU: one group at a time and turn by turn, see engines/groups.py). What a turn generated is
kept, so that a half-read trajectory of a killed run continues from its last finished turn. All G trajectories of a prompt begin
with the same prompt (first chunk, empty memory), so it is asked once with n = G. The reward of the final answer is the
trajectory's; advantages are the trainer's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

from stages.common.prompts import answer_instruction, core_question, materialise_context
from stages.common.records import Sample
from stages.common.rollouts import Completion, GenerationRequest, Rollout, RolloutGroup, TurnLog
from stages.common.seeds import derive_seed
from stages.common.storage import DocumentStore
from stages.engines.base import RolloutEngine
from stages.engines.groups import OnGroup, Slot, make_groups, one_group_at_a_time
from stages.memory.agent import AgentResult, MemoryAgent, Trajectory
from stages.memory.config import MemoryAgentConfig
from stages.memory.kept_splits import SplitMany
from stages.memory.kept_turns import KeptTurns
from stages.memory.query import SplitBy, SplitQuery, split_query
from stages.rewards.hybrid import HybridReward, Scored

# (step, attempt, sample, results, scores) of a group that is scored
OnTrajectories = Callable[[int, int, Sample, Sequence[AgentResult], Sequence[Scored]], None]


class MemoryRolloutSource:
    """Reads each sample's context with the memory agent, G times (a RolloutSource, see stages/rl/rollout.py).

    on_trajectories: gets one group of every call, that of the first place, once it is scored, for the reader who wants to see how it was read.
    reward_seconds: time spent on rewards in the last call.
    Rollout.counters: turns, parse_failures, truncated_turns, memory_cuts; with a judge also judge_*.
    split_many: splits the questions of a call where `agent.split_question` is model; None: by rules.
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
        reward: HybridReward | None = None,
        on_trajectories: OnTrajectories | None = None,
        split_many: SplitMany | None = None,
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
            prompt_order=agent.prompt_order,
            split=None,  # here, all questions of a call together
        )
        self._split = _splitter(agent.split_question, split_many)
        self._group_size = group_size
        self._seed = seed
        self._on_trajectories = on_trajectories
        self.reward = reward or HybridReward()
        self.reward_seconds = 0.0

    def __call__(
        self,
        samples: Sequence[Sample],
        step: int,
        attempt: int = 0,
        *,
        places: Sequence[int] | None = None,
        on_group: OnGroup | None = None,
        turn_log: TurnLog | None = None,
    ) -> list[RolloutGroup]:
        """One group per sample, in order; `places` are their group ids, `on_group` gets each as soon as it is scored.

        turn_log: turns that were finished before a stop are taken from it, new ones are added.
        """
        self.reward_seconds = 0.0
        numbers = list(places or range(len(samples)))
        tell = self._on_trajectories
        splits = self._split([core_question(sample) for sample in samples])
        makers = [
            partial(
                self._group,
                sample,
                split,
                place,
                derive_seed(self._seed, "memory_rollout", step, attempt, place, sample.id),
                turn_log,
                partial(tell, step, attempt, sample) if tell is not None and place == min(numbers) else None,
            )
            for place, sample, split in zip(numbers, samples, splits, strict=True)
        ]
        return make_groups(self._engine, makers, on_group)

    async def _group(
        self,
        sample: Sample,
        split: SplitQuery,
        place: int,
        seed: int,
        turn_log: TurnLog | None,
        tell: Callable[[Sequence[AgentResult], Sequence[Scored]], None] | None,
        slot: Slot,
    ) -> RolloutGroup:
        """G trajectories over one document, scored."""
        kept = KeptTurns(turn_log, f"{place}/{sample.id}")
        async with slot:
            results = await self._trajectories(sample, split, seed, kept)
        started = time.perf_counter()
        scores = await self.reward.score(sample, [result.text for result in results])
        rollouts = tuple(
            Rollout(result.segments, result.text, scored.reward, result.counters | scored.counters)
            for result, scored in zip(results, scores, strict=True)
        )
        self.reward_seconds += time.perf_counter() - started
        if tell is not None:
            tell(results, scores)
        return RolloutGroup(sample.id, sample.task_type.value, place, rollouts)

    async def _trajectories(self, sample: Sample, split: SplitQuery, seed: int, kept: KeptTurns) -> list[AgentResult]:
        """The G trajectories of one prompt; those of a stopped run go on from their last finished turn."""
        document = materialise_context(sample, self._documents)
        steps = [
            self._agent.trajectory(
                split.core,
                document,
                f"{split.instructions}\n{answer_instruction(sample)}".strip(),
                derive_seed(seed, member),
                keep_segments=True,
            )
            for member in range(self._group_size)
        ]
        first = [next(trajectory) for trajectory in steps]
        assert all(request.prompt_ids == first[0].prompt_ids for request in first)
        together = replace(first[0], n=self._group_size)
        completions = await kept.turn("first", partial(self._engine.generate, together))
        if one_group_at_a_time(self._engine):
            return await self._in_step(steps, completions, kept)
        return await asyncio.gather(
            *(
                self._agent.finish(trajectory, completion, kept.asking(member, self._engine.generate))
                for member, (trajectory, completion) in enumerate(zip(steps, completions, strict=True))
            )
        )

    async def _in_step(
        self, steps: Sequence[Trajectory], completions: Sequence[Completion], kept: KeptTurns
    ) -> list[AgentResult]:
        """Turn by turn for all at once: where a batch's shape decides the last bits, a turn is asked whole or not at all.

        All trajectories read the same chunks, so none waits for another.
        """
        for number in count(1):
            requests, results = [], []
            for trajectory, completion in zip(steps, completions, strict=True):
                try:
                    requests.append(trajectory.send(completion))
                except StopIteration as finished:
                    results.append(finished.value)
            if results:
                assert not requests, "trajectories over one document have the same number of turns"
                return results
            completions = await kept.turn(f"all/{number}", partial(self._ask, requests))
        raise AssertionError("unreachable")

    async def _ask(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion of each request, in one batch."""
        return [answers[0] for answers in await asyncio.gather(*map(self._engine.generate, requests))]


def _splitter(by: SplitBy, split_many: SplitMany | None) -> SplitMany:
    """What splits questions, as the setting says."""
    if by == "off":
        return lambda questions: [SplitQuery(question, "") for question in questions]
    if by == "model" and split_many is not None:
        return split_many
    return lambda questions: [split_query(question) for question in questions]
