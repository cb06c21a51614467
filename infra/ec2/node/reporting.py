"""What the agent does beside the stage: heartbeats, log and metric chunks, notices of the cloud, orders of the controller.

Each is a thread of its own with a period; none of them ends the agent when its call fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Periodic:
    """Calls `action` every so many seconds, and when nudged, until `stop`; what it raises is logged, and it goes on."""

    def __init__(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._name = name
        self._seconds = seconds
        self._action = action
        self._ended = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def nudge(self) -> None:
        """Call it now, not when its time comes."""
        self._wake.set()

    def stop(self, wait_seconds: float = 5.0) -> None:
        """No more calls; one under way may take a moment."""
        self._ended = True
        self._wake.set()
        self._thread.join(wait_seconds)

    def _loop(self) -> None:
        while True:
            try:
                self._action()
            except Exception as error:  # storage, network, parsing: the next call may go through  # noqa: BLE001
                logger.warning("%s: %s: %s", self._name, type(error).__name__, error)
            self._wake.wait(self._seconds)
            self._wake.clear()
            if self._ended:
                return


class Orders:
    """Why the stage is to be stopped; the first reason stands."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.reason: str | None = None
        self.message = ""

    def stop(self, reason: str, message: str) -> None:
        """Ask for a stop."""
        with self._guard:
            if self.reason is None:
                self.reason, self.message = reason, message
                logger.info("stopping: %s (%s)", reason, message)


class Progress:
    """When something last moved: lines of output, metrics, checkpoints, the phase."""

    def __init__(self) -> None:
        self._marker: tuple[object, ...] = ()
        self._moved = time.monotonic()

    def look(self, *marker: object) -> None:
        """Take note of the present state."""
        if marker != self._marker:
            self._marker, self._moved = marker, time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self._moved
