"""Evaluation while training: the same few held-out prompts every n steps, each answered once.

Seeds do not depend on the step, so two evaluations differ by the weights alone. The numbers of step s belong to the
weights before its update, as the step's own rewards do: step 0 is the parent model. Answers are sampled as in training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.records import Sample
from stages.rl.finished import FinishedGroups
from stages.rl.rollout import RolloutSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """every_steps: evaluated before the updates 0, n, 2n, ... source: makes groups of one rollout."""

    source: RolloutSource
    samples: Sequence[Sample]
    every_steps: int

    def evaluate(self, step: int, finished: FinishedGroups) -> dict[str, float]:
        """`eval/reward/mean` and `eval/reward/<task>/mean`; empty if it is not this step's turn."""
        if step % self.every_steps:
            return {}
        values: dict[str, float] | None = finished.noted("eval")
        if values is None:
            rewards: dict[str, list[float]] = {}
            for group in self.source(self.samples, 0):
                rewards.setdefault(group.task_type, []).append(group.rollouts[0].reward)
            every = [reward for mine in rewards.values() for reward in mine]
            values = {"eval/reward/mean": sum(every) / len(every)}
            for task, mine in rewards.items():
                values[f"eval/reward/{task}/mean"] = sum(mine) / len(mine)
            finished.note("eval", values)
        logger.info("held-out reward before step %d: %.3f", step + 1, values["eval/reward/mean"])
        return values
