"""What a generator refuses: every drop is counted by reason, and the first ones of each reason are kept to be looked at.

A generator may refuse hundreds of thousands of candidates; their records would outweigh the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from stages.common.records import Dropped


class DropLog:
    """counts: drops by reason, all of them. kept: records of the first `kept_per_reason` of each."""

    def __init__(self, kept_per_reason: int) -> None:
        self._kept_per_reason = kept_per_reason
        self.counts: Counter[str] = Counter()
        self.kept: list[Dropped] = []

    def add(self, reason: str, record: Callable[[], Dropped]) -> None:
        """Count a drop; its record is made only if it is kept."""
        self.counts[reason] += 1
        if self.counts[reason] <= self._kept_per_reason:
            self.kept.append(record())

    @property
    def not_kept(self) -> Counter[str]:
        """Drops by reason that are counted but have no record."""
        return self.counts - Counter(record.reason for record in self.kept)
