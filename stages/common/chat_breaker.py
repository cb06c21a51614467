"""Leaves an endpoint that does not answer alone for a while, so that hundreds of calls do not each wait for it in vain."""

from __future__ import annotations

import logging
import time

from stages.common.chat import ChatFailedError

logger = logging.getLogger(__name__)

SILENT = frozenset({"timeout", "unreachable", "rate_limited", "server_error"})  # reasons that concern every call


class Breaker:
    """Opens after `after` silent failures in a row; `seconds` later one call after another may try again."""

    def __init__(self, after: int = 8, seconds: float = 60.0) -> None:
        self._after = after
        self._seconds = seconds
        self._in_a_row = 0
        self._open_until = 0.0

    def check(self) -> None:
        """ChatFailedError while the endpoint is left alone."""
        if time.monotonic() < self._open_until:
            raise ChatFailedError("unreachable", "the endpoint has not answered lately and is not asked for a while")

    def failed(self, error: ChatFailedError) -> None:
        """A call came to nothing."""
        if error.reason not in SILENT or time.monotonic() < self._open_until:
            return
        self._in_a_row += 1
        if self._in_a_row >= self._after:
            self._open_until = time.monotonic() + self._seconds
            logger.warning(
                "%d calls in a row failed (%s): the endpoint is left alone for %.0f s",
                self._in_a_row,
                error,
                self._seconds,
            )

    def worked(self) -> None:
        """A call was answered."""
        self._in_a_row = 0
