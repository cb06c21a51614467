"""Samples in, groups of scored rollouts out: the single-pass ("full-context") rollout source.

A rollout source is anything that is called like this one; stages/memory/rollout.py is the other. The training loop is
handed one and never asks which. Seeds come from (seed, step, attempt, place in the batch), so a step can be repeated
after a crash and gives the same rollouts; `attempt` counts the refills of dynamic sampling.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from stages.common.prompts import full_context_messages, materialise_context
from stages.common.records import Sample
from stages.common.rollouts import Completion, GenerationRequest, Rollout, RolloutGroup, Segment
from stages.common.seeds import derive_seed
from stages.common.storage import DocumentStore
from stages.common.tokens import ChatTokenizer
from stages.engines.base import RolloutEngine
from stages.rewards.hybrid import reward


class RolloutSource(Protocol):
    """Makes one group of rollouts per sample.

    reward_seconds: time spent on rewards in the last call (a part of the rollout's time).
    """

    reward_seconds: float

    def __call__(self, samples: Sequence[Sample], step: int, attempt: int = 0) -> list[RolloutGroup]:
        """One group per sample, in order; `group_id` is the sample's place in `samples`."""
        ...


class FullContextRolloutSource:
    """Asks each question with all its documents in one prompt, G times.

    top_p concerns sampling alone: the trained log-probabilities use the full vocabulary (recipe section 3).
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
    ) -> None:
        self._engine = engine
        self._documents = documents
        self._max_output_tokens = max_output_tokens
        self._group_size = group_size
        self._temperature = temperature
        self._top_p = top_p
        self._seed = seed
        self.reward_seconds = 0.0

    def __call__(self, samples: Sequence[Sample], step: int, attempt: int = 0) -> list[RolloutGroup]:
        """One group per sample, in order; `group_id` is the sample's place in `samples`."""
        requests = [
            GenerationRequest(
                prompt_ids=prompt_ids(sample, self._documents, self._engine.tokenizer),
                n=self._group_size,
                max_tokens=self._max_output_tokens,
                temperature=self._temperature,
                top_p=self._top_p,
                seed=derive_seed(self._seed, "rollout", step, attempt, place, sample.id),
            )
            for place, sample in enumerate(samples)
        ]
        completions = self._engine.generate_all(requests)
        started = time.perf_counter()
        groups = [
            RolloutGroup(
                sample_id=sample.id,
                task_type=sample.task_type.value,
                group_id=place,
                rollouts=tuple(self._rollout(sample, request.prompt_ids, completion) for completion in answers),
            )
            for place, (sample, request, answers) in enumerate(zip(samples, requests, completions, strict=True))
        ]
        self.reward_seconds = time.perf_counter() - started
        return groups

    def _rollout(self, sample: Sample, prompt: tuple[int, ...], completion: Completion) -> Rollout:
        text = self._engine.tokenizer.decode(completion.token_ids)
        segment = Segment(prompt, completion.token_ids, completion.logprobs, "answer", completion.finish_reason)
        return Rollout((segment,), text, reward(sample, text))


def prompt_ids(sample: Sample, documents: DocumentStore, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """The single-pass prompt of a sample as token ids."""
    return tokenizer.encode_chat(full_context_messages(sample, materialise_context(sample, documents)))


def fitting_samples(
    samples: Sequence[Sample], documents: DocumentStore, tokenizer: ChatTokenizer, max_input_tokens: int
) -> tuple[list[Sample], int]:
    """Samples whose prompt has at most `max_input_tokens` tokens, and how many were left out."""
    kept = [sample for sample in samples if len(prompt_ids(sample, documents, tokenizer)) <= max_input_tokens]
    return kept, len(samples) - len(kept)
