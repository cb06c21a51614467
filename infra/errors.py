"""Errors of the machinery: processes, locks, servers, tracking.

`infra` and `stages` never meet, so these stand beside the tree of `stages.common.errors`; the command line shows both
without a traceback. Every message says what happened, where, and what to do.
"""

from __future__ import annotations


class InfraError(RuntimeError):
    """The machine, a service or another process stands in the way; nothing in the project is wrong."""


class TreeBusyError(InfraError):
    """Another run holds this working tree."""


class TransientError(InfraError):
    """Worth another attempt: DVC found its files busy for a moment. Nothing was lost."""


class StageFailedError(InfraError):
    """A stage's command failed. `tail` holds the last lines that it printed."""

    def __init__(self, stage: str, exit_code: int, tail: tuple[str, ...]) -> None:
        self.stage = stage
        self.exit_code = exit_code
        self.tail = tail
        super().__init__(f"stage {stage} failed (exit code {exit_code})")

    def __reduce__(self) -> tuple[type[StageFailedError], tuple[str, int, tuple[str, ...]]]:
        """Prefect copies exceptions between contexts: keep them picklable."""
        return StageFailedError, (self.stage, self.exit_code, self.tail)


class StageStoppedError(InfraError):
    """A stage was stopped because its run was interrupted."""
