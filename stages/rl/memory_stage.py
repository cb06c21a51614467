"""memory_rl: the memory expert, trained from stage 3 on whole trajectories (paper section 2.3, recipe section 4).

The same stage as full-context RL, with another rollout source: an advantage belongs to a trajectory (scope `group`, the
paper's Eq. 3) and reaches all its turns; `turn_weighting` says how the turns share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from stages.common.metrics import Emit, record_trajectory
from stages.common.records import Sample
from stages.common.storage import DocumentStore
from stages.engines.base import RolloutEngine
from stages.memory.kept_splits import KeptSplits, SplitMany
from stages.memory.query_model import split_all
from stages.memory.record import cut, trajectory_record
from stages.memory.results import AgentResult
from stages.memory.rollout import MemoryRolloutSource, OnTrajectories
from stages.rewards.hybrid import HybridReward, Scored
from stages.rewards.judge import build_judge
from stages.rl.config import MemoryRLStage
from stages.rl.rollout import FittingSamples, RolloutSource
from stages.rl.stage import Purpose, StageSettings, run_stage
from stages.rl.train import TrainPlan

PROMPT_TOKENS = 1024  # room for the agent's instructions and the question, in the memory plan

RECORDED = 128  # trajectories of a stage that are shown in MLflow's Traces
RECORDED_OF_GROUP = 8


def run(
    config: MemoryRLStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Train `inputs["parent"]` as a memory agent; writes what rl@stageN writes, raises what it raises."""
    memory, shared = config.memory_rl, config.shared

    judge = build_judge(config.judge, state_dir)
    reward = HybridReward(judge)
    split_many: SplitMany | None = None
    if judge is not None and memory.agent.split_question == "model":
        split_many = KeptSplits(
            state_dir / "question_splits.jsonl", lambda questions: judge.ask(partial(split_all, questions=questions))
        )

    def make_source(
        engine: RolloutEngine, documents: DocumentStore, group_size: int, seed: int, purpose: Purpose
    ) -> RolloutSource:
        return MemoryRolloutSource(
            engine,
            documents,
            memory.agent,
            group_size=group_size,
            temperature=shared.temperature,
            top_p=shared.top_p,
            seed=seed,
            reward=reward,
            on_trajectories=_recorded(emit, memory.steps) if purpose == "train" else None,
            split_many=split_many,
        )

    def choose(samples: Sequence[Sample], _documents: DocumentStore, _engine: RolloutEngine) -> FittingSamples:
        # The agent reads chunk by chunk: only the document's length is bounded, not a prompt's, so nothing is ever cut.
        kept = [sample for sample in samples if sample.context_tokens <= memory.max_input_tokens]
        longest = max((sample.context_tokens for sample in kept), default=0)
        return FittingSamples(kept, len(samples) - len(kept), 0, longest)

    settings = StageSettings(
        plan=TrainPlan(memory.steps, memory.agent.answer_tokens, memory.std_scope, memory.turn_weighting),
        learning_rate=memory.learning_rate,
        filter_prompts=memory.filter_prompts,
        filter_rollouts=memory.filter_rollouts,
        max_input_tokens=memory.max_input_tokens,
        # A turn's prompt: question, memory, plan and a chunk
        longest_prompt_tokens=memory.agent.chunk_tokens + memory.agent.turn_tokens + PROMPT_TOKENS,
        longest_answer_tokens=max(memory.agent.turn_tokens, memory.agent.answer_tokens),
    )
    identity = config.model_dump_json()
    with closing(reward):
        return run_stage(
            settings, shared, config.train, config.seed, identity, make_source, choose, inputs, out_dir, state_dir, emit
        )


def _recorded(emit: Emit, steps: int) -> OnTrajectories:
    """Records one group of every n-th update, so that a stage has about RECORDED trajectories however long it is."""
    every = -(-steps * RECORDED_OF_GROUP // RECORDED)

    def record(
        step: int, attempt: int, sample: Sample, results: Sequence[AgentResult], scores: Sequence[Scored]
    ) -> None:
        if step % every or attempt:
            return
        for member, (result, scored) in enumerate(zip(results, scores, strict=True)):
            if member < RECORDED_OF_GROUP:
                facts = {"sample_id": sample.id, "task_type": sample.task_type.value, "reward": scored.reward}
                facts |= {"gold": cut(str(sample.answer), 1000)}
                facts |= {"update": step + 1, "rollout": member}
                if verdict := scored.verdict:
                    facts |= {"judge": verdict}
                key = f"update-{step + 1}/{sample.id}/{member}"
                record_trajectory(emit, trajectory_record(key, sample.question, result, facts))

    return record
