"""Who may work now: one stage that runs a model at a time, and a bounded number of others beside it."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import StageStoppedError


class Slots:
    """Tokens of one pipeline run. Of the stages that wait, the one that comes first in the plan goes first."""

    def __init__(self, jobs: int) -> None:
        self._free = {"model": 1, "light": jobs}
        self._waiting: dict[str, list[int]] = {"model": [], "light": []}
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, *, uses_model: bool, position: int) -> Iterator[None]:
        """Wait for a token and keep it. Raises StageStoppedError if the run is stopped meanwhile."""
        kind = "model" if uses_model else "light"
        waiting = self._waiting[kind]
        with self._changed:
            heapq.heappush(waiting, position)
            self._changed.wait_for(lambda: self._closed or (self._free[kind] > 0 and waiting[0] == position))
            waiting.remove(position)
            heapq.heapify(waiting)
            if self._closed:
                raise StageStoppedError("not started: the run is being stopped")
            self._free[kind] -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free[kind] += 1
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody start any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
