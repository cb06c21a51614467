"""Groups of rollouts made side by side, each handed over the moment it is finished.

On a CPU the shapes of a batch decide the last bits of its results, so there one group is generated at a time: what a
group holds then depends on (weights, seed, step, place) alone, and a killed step continues with the groups that it
lacks. Other engines get all requests at once and fill their batches with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import torch

from stages.common.rollouts import RolloutGroup
from stages.engines.base import RolloutEngine
from stages.engines.transformers_engine import TransformersEngine

Slot = AbstractAsyncContextManager[object]  # held while a group is generated, given up before it is judged
OnGroup = Callable[[RolloutGroup], None]


def one_group_at_a_time(engine: RolloutEngine) -> bool:
    """True if groups that are generated together would differ in their last bits from groups generated alone."""
    return isinstance(engine, TransformersEngine) and not torch.cuda.is_available()


def make_groups(
    engine: RolloutEngine,
    makers: Sequence[Callable[[Slot], Awaitable[RolloutGroup]]],
    on_group: OnGroup | None = None,
) -> list[RolloutGroup]:
    """The groups of all makers, in their order; `on_group` gets each as soon as it is there.

    A maker holds its slot while it generates (`async with slot:`). The first error ends all; what `on_group` got stays.
    """

    async def run() -> list[RolloutGroup]:
        slot: Slot = asyncio.Semaphore(1) if one_group_at_a_time(engine) else nullcontext()

        async def one(maker: Callable[[Slot], Awaitable[RolloutGroup]]) -> RolloutGroup:
            group = await maker(slot)
            if on_group is not None:
                on_group(group)
            return group

        return await asyncio.gather(*(one(maker) for maker in makers))

    return asyncio.run(run())
