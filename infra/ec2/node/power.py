"""The dead-man timer of the instance: `shutdown -h +N`, armed by the first line of user data.

While there is progress the agent arms it anew, never past the hard cap; without progress, or without an agent, the
instance powers off and, by its shutdown behaviour, terminates.
"""

from __future__ import annotations

import logging
import math
import subprocess
import time

logger = logging.getLogger(__name__)


class Power:
    """ttl_minutes: from now on. hard_cap: seconds since the epoch at which it ends in any case."""

    def __init__(self, ttl_minutes: int, hard_cap: float, minute_seconds: float = 60.0) -> None:
        self._ttl_minutes = ttl_minutes
        self._hard_cap = hard_cap
        self._minute_seconds = minute_seconds
        self._armed_at = time.monotonic()

    @property
    def due_to_arm(self) -> bool:
        """True after a quarter of the time."""
        return time.monotonic() - self._armed_at >= self._ttl_minutes * self._minute_seconds / 4

    def arm(self) -> int:
        """Set the timer anew; the minutes that it was set to."""
        left = max(0, math.floor((self._hard_cap - time.time()) / self._minute_seconds))
        minutes = min(self._ttl_minutes, left)
        if minutes < 1:
            return 0  # what is armed stands
        self._armed_at = time.monotonic()
        run_shutdown("-h", f"+{minutes}")
        return minutes

    def off(self) -> None:
        """Power off now."""
        run_shutdown("-h", "now")


def run_shutdown(*words: str) -> None:
    """Call `shutdown`. A failure is told; the timer that was set before stands."""
    try:
        done = subprocess.run(["shutdown", *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("shutdown %s: %s", " ".join(words), error)
        return
    if done.returncode != 0:
        logger.warning("shutdown %s: exit code %s: %s", " ".join(words), done.returncode, done.stderr.strip())
