"""What turns of a group have generated, kept as soon as it is there, so that a killed run does not read again.

A trajectory is a generator that is fed completions (agent.py), so continuing it means feeding it what it was fed before:
nothing else of its state is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

from stages.common.rollouts import Completion, GenerationRequest, TurnLog

Generate = Callable[[GenerationRequest], Awaitable[list[Completion]]]


class KeptTurns:
    """The turns of one group. Without a log nothing is kept."""

    def __init__(self, log: TurnLog | None, group: str) -> None:
        self._log = log
        self._group = group

    async def turn(self, name: str, generate: Callable[[], Awaitable[list[Completion]]]) -> list[Completion]:
        """The completions of a turn: from the log, or generated and kept."""
        if self._log is None:
            return await generate()
        key = f"{self._group}/{name}"
        found = self._log.get(key)
        if found is None:
            found = await generate()
            self._log.add(key, found)
        return found

    def asking(self, member: int, generate: Generate) -> Generate:
        """`generate` for one trajectory, whose turns are counted from 1 (the first one is asked for all together)."""
        numbers = count(1)

        async def ask(request: GenerationRequest) -> list[Completion]:
            return await self.turn(f"{member}/{next(numbers)}", lambda: generate(request))

        return ask
