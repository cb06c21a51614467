"""Samples in, groups of scored rollouts out: the single-pass ("full-context") rollout source.

A rollout source is anything that is called like this one; stages/memory/rollout.py is the other. The training loop is
handed one and never asks which. Seeds come from (seed, step, attempt, place in the batch), so a step can be repeated
after a crash and gives the same rollouts; `attempt` counts the refills of dynamic sampling. Each group is handed over
as soon as it is scored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from stages.common.errors import InputError
from stages.common.prompts import full_context_messages, materialise_context
from stages.common.records import Sample
from stages.common.rollouts import Completion, GenerationRequest, Rollout, RolloutGroup, Segment, TurnLog
from stages.common.seeds import derive_seed
from stages.common.storage import DocumentStore
from stages.common.tokens import ChatTokenizer
from stages.common.truncation import prompt_without_middle
from stages.engines.base import RolloutEngine
from stages.engines.groups import OnGroup, Slot, make_groups
from stages.rewards.hybrid import HybridReward, Scored


class RolloutSource(Protocol):
    """Makes one group of rollouts per sample.

    reward: what scores the answers; a judge works while other groups are still generated.
    reward_seconds: time spent on rewards in the last call (a part of the rollout's time; with a judge, groups overlap).
    """

    reward: HybridReward
    reward_seconds: float

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
        """One group per sample, in order.

        places: each sample's place in the batch, its `group_id` and a part of its seed (default: 0, 1, ...).
        on_group: gets each group as soon as it is scored, in any order.
        turn_log: where groups of several turns keep those that are finished.
        """
        ...


class FullContextRolloutSource:
    """Asks each question with all its documents in one prompt, G times.

    top_p concerns sampling alone: the trained log-probabilities use the full vocabulary (recipe section 3).
    cut_to_tokens: longer prompts lose the middle of their documents; None: prompts are taken as they are.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        documents: DocumentStore,
        *,
        max_output_tokens: int,
        group_size: int,
        temperature: float,
        top_p: float,
        seed: int,
        reward: HybridReward | None = None,
        cut_to_tokens: int | None = None,
    ) -> None:
        self._engine = engine
        self._documents = documents
        self._max_output_tokens = max_output_tokens
        self._group_size = group_size
        self._temperature = temperature
        self._top_p = top_p
        self._seed = seed
        self._cut_to_tokens = cut_to_tokens
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
        """One group per sample, in order; see RolloutSource. An answer is one turn, so nothing is logged."""
        del turn_log
        self.reward_seconds = 0.0
        makers = [
            partial(self._group, sample, place, derive_seed(self._seed, "rollout", step, attempt, place, sample.id))
            for place, sample in zip(places or range(len(samples)), samples, strict=True)
        ]
        return make_groups(self._engine, makers, on_group)

    async def _group(self, sample: Sample, place: int, seed: int, slot: Slot) -> RolloutGroup:
        """G answers to one question, scored."""
        prompt = prompt_ids(sample, self._documents, self._engine.tokenizer, self._cut_to_tokens)
        async with slot:
            completions = await self._engine.generate(
                GenerationRequest(
                    prompt_ids=prompt,
                    n=self._group_size,
                    max_tokens=self._max_output_tokens,
                    temperature=self._temperature,
                    top_p=self._top_p,
                    seed=seed,
                )
            )
        started = time.perf_counter()
        texts = [self._engine.tokenizer.decode_response(completion.token_ids) for completion in completions]
        scores = await self.reward.score(sample, texts)
        rollouts = tuple(map(partial(_rollout, prompt), completions, texts, scores))
        self.reward_seconds += time.perf_counter() - started
        return RolloutGroup(sample.id, sample.task_type.value, place, rollouts)


def _rollout(prompt: tuple[int, ...], completion: Completion, text: str, scored: Scored) -> Rollout:
    segment = Segment(prompt, completion.token_ids, completion.logprobs, "answer", completion.finish_reason)
    return Rollout((segment,), text, scored.reward, scored.counters)


def prompt_ids(
    sample: Sample, documents: DocumentStore, tokenizer: ChatTokenizer, cut_to_tokens: int | None = None
) -> tuple[int, ...]:
    """The single-pass prompt of a sample as token ids.

    cut_to_tokens: a longer prompt loses the middle of its documents. InputError if the question alone is longer.
    """
    context = materialise_context(sample, documents)
    if cut_to_tokens is None:
        return tokenizer.encode_chat(full_context_messages(sample, context))
    prompt = prompt_without_middle(sample, context, tokenizer, cut_to_tokens)
    if prompt is None:
        raise InputError(f"sample {sample.id}: its question alone has more than {cut_to_tokens} tokens.")
    return prompt


@dataclass(frozen=True)
class FittingSamples:
    """samples: those to train on. dropped: how many are too long. cut: how many of `samples` lose their middle.

    longest_prompt_tokens: of `samples`, after the cut.
    """

    samples: list[Sample]
    dropped: int
    cut: int
    longest_prompt_tokens: int


def fitting_samples(
    samples: Sequence[Sample],
    documents: DocumentStore,
    tokenizer: ChatTokenizer,
    max_input_tokens: int,
    overlong: Literal["drop", "truncate_middle"],
) -> FittingSamples:
    """What a stage with prompts of at most `max_input_tokens` tokens trains on."""
    kept, cut, longest = [], 0, 0
    for sample in samples:
        context = materialise_context(sample, documents)
        length = len(tokenizer.encode_chat(full_context_messages(sample, context)))
        if length > max_input_tokens:
            if overlong == "drop" or prompt_without_middle(sample, context, tokenizer, max_input_tokens) is None:
                continue
            cut += 1
        kept.append(sample)
        longest = max(longest, min(length, max_input_tokens))
    return FittingSamples(kept, len(samples) - len(kept), cut, longest)
