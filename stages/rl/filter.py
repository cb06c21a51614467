"""Retrospective difficulty filter: what the parent model finds neither impossible nor trivial (QwenLong-L1, recipe section 3).

Before a stage trains, k rollouts are drawn from its parent for some prompts, at this stage's own lengths, and prompts
with 0 < mean reward < 1 are kept. Ours: a task that would keep fewer prompts than its share of a batch is filled up with
its prompts whose mean reward is closest to 0.5, so that batches stay balanced; these are counted as `fallback`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from stages.common.errors import ConfigError
from stages.common.records import Record, Sample
from stages.common.rollouts import RolloutGroup
from stages.common.seeds import rng
from stages.rl.finished import FinishedGroups
from stages.rl.rollout import RolloutSource

logger = logging.getLogger(__name__)


class Selected(Record):
    """One prompt that a stage trains on."""

    id: str
    task_type: str
    mean_reward: float | None = Field(description="Mean reward of the parent's rollouts; null: not measured.")
    reason: Literal["in_range", "fallback", "unfiltered"]


def draw_balanced(samples: Sequence[Sample], count: int, seed: int, knob: str) -> list[Sample]:
    """Up to `count` samples, one task after the other in turn. ConfigError (naming `knob`) if a task would get none."""
    queues: dict[str, list[Sample]] = {}
    for sample in samples:
        queues.setdefault(sample.task_type.value, []).append(sample)
    if count < len(queues):
        raise ConfigError(
            f"{knob} is {count}, but there are {len(queues)} task types. Set it to at least {len(queues)}."
        )
    for task in sorted(queues):
        rng(seed, "filter", task).shuffle(queues[task])
    drawn: list[Sample] = []
    while len(drawn) < count and any(queues.values()):
        for task in sorted(queues):
            if queues[task] and len(drawn) < count:
                drawn.append(queues[task].pop(0))
    return drawn


def measure(
    source: RolloutSource, samples: Sequence[Sample], batch_prompts: int, finished: FinishedGroups
) -> dict[str, float]:
    """Mean reward of each sample's rollouts, by id; `batch_prompts` prompts are rolled out at a time.

    finished: keeps each mean as it comes, so that a killed filter goes on where it was.
    """
    means: dict[str, float] = {}

    def keep(group: RolloutGroup) -> None:
        finished.note(group.sample_id, _mean_reward(group))

    for number, start in enumerate(range(0, len(samples), batch_prompts)):
        batch = samples[start : start + batch_prompts]
        known = {sample.id: mean for sample in batch if (mean := finished.noted(sample.id)) is not None}
        places = [place for place, sample in enumerate(batch) if sample.id not in known]
        groups = (
            source(
                [batch[place] for place in places],
                number,
                places=places,
                on_group=keep,
                turn_log=finished.turn_log(number),
            )
            if places
            else []
        )
        means |= known | {group.sample_id: _mean_reward(group) for group in groups}
        logger.info("difficulty filter: %d of %d prompts measured", len(means), len(samples))
    return means


def _mean_reward(group: RolloutGroup) -> float:
    return sum(rollout.reward for rollout in group.rollouts) / len(group.rollouts)


def select(samples: Sequence[Sample], means: Mapping[str, float], share: int) -> list[Selected]:
    """The prompts to train on, in dataset order.

    means: mean reward of the measured samples. share: prompts that a task must keep (its part of a batch).
    """
    reasons: dict[str, Literal["in_range", "fallback"]] = {}
    measured = [sample for sample in samples if sample.id in means]
    for task in sorted({sample.task_type for sample in measured}):
        mine = [sample.id for sample in measured if sample.task_type is task]
        kept = [i for i in mine if 0 < means[i] < 1]
        rest = sorted((i for i in mine if i not in kept), key=lambda i: (abs(means[i] - 0.5), i))
        reasons |= dict.fromkeys(kept, "in_range")
        reasons |= dict.fromkeys(rest[: max(0, share - len(kept))], "fallback")
    return [
        Selected(id=s.id, task_type=s.task_type.value, mean_reward=means[s.id], reason=reasons[s.id])
        for s in measured
        if s.id in reasons
    ]
