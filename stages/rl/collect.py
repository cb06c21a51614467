"""The scored groups of one training step: drawn, rolled out, kept as each finishes, drawn again where they teach nothing.

Dynamic sampling replaces groups whose rewards are all equal by others of the same task, at most `max_refills` times; what
is still equal then stays. Draws follow from the sampler's state and seeds from (seed, step, attempt, place), so after a
kill the same prompts are drawn again and only the groups that are not on disk are rolled out.

With several processes the source shares the work (distributed.py); `finished` holds what any of them had finished.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from stages.common.errors import LongfuseError
from stages.common.records import Sample
from stages.common.rollouts import RolloutGroup
from stages.rl.config import RLSharedConfig
from stages.rl.finished import FinishedGroups
from stages.rl.rollout import RolloutSource
from stages.rl.sampler import TaskBalancedSampler

logger = logging.getLogger(__name__)


def collect_groups(
    source: RolloutSource,
    sampler: TaskBalancedSampler,
    samples: Sequence[Sample],
    shared: RLSharedConfig,
    step: int,
    finished: FinishedGroups,
) -> tuple[list[RolloutGroup], float]:
    """The groups of one step, group ids 0..B-1, and the seconds that rewards took in this process.

    Raises LongfuseError if the engine's log-probabilities are not finite.
    """
    drawn = next(sampler)
    groups: dict[int, RolloutGroup] = {}
    flat = list(range(len(drawn)))
    reward_seconds = 0.0
    refills = shared.max_refills if shared.dynamic_sampling else 0
    for attempt in range(refills + 1):
        wanted = {place: samples[drawn[place]] for place in flat}
        made, seconds = finish_groups(source, wanted, step, attempt, finished)
        groups |= made
        reward_seconds += seconds
        flat = [place for place, group in groups.items() if len({r.reward for r in group.rollouts}) == 1]
        if not flat or attempt == refills:
            break
        for place in flat:
            drawn[place] = sampler.draw(groups[place].task_type, 1, exclude=drawn)[0]
        logger.info("step %d: %d groups had equal rewards and are drawn again", step + 1, len(flat))
    return [groups[place] for place in sorted(groups)], reward_seconds


def finish_groups(
    source: RolloutSource, wanted: Mapping[int, Sample], step: int, attempt: int, finished: FinishedGroups
) -> tuple[dict[int, RolloutGroup], float]:
    """The group of each place, from disk if it is there, else rolled out and kept; and the seconds of rewards."""
    groups: dict[int, RolloutGroup] = {}
    for place, sample in wanted.items():
        if (group := finished.get(attempt, place, sample.id)) is not None:
            groups[place] = group
    missing = [place for place in wanted if place not in groups]
    if groups:
        logger.info("step %d: %d of %d groups were finished before the stop", step + 1, len(groups), len(wanted))
    if not missing:
        return groups, 0.0

    def keep(group: RolloutGroup) -> None:
        _check(group)
        finished.add(attempt, group)

    made = source(
        [wanted[place] for place in missing],
        step,
        attempt,
        places=missing,
        on_group=keep,
        turn_log=finished.turn_log(attempt),
    )
    return groups | dict(zip(missing, made, strict=True)), source.reward_seconds


def _check(group: RolloutGroup) -> None:
    logprobs = (lp for rollout in group.rollouts for segment in rollout.segments for lp in segment.logprobs)
    if not all(map(math.isfinite, logprobs)):
        raise LongfuseError(
            f"the engine returned log-probabilities that are not finite for sample {group.sample_id}: the model's "
            "weights are broken."
        )
