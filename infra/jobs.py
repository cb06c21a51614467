"""The words for one piece of work: what is asked for, what it needs, how it stands, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # by us


class Outcome(StrEnum):
    """What DVC did with a stage that was asked for."""

    RAN = "ran"
    RESTORED = "restored"  # the run cache had the result
    SKIPPED = "skipped"  # nothing that it depends on had changed after all


@dataclass(frozen=True, kw_only=True)
class Resource:
    """What a job needs of a machine. `whole_machine`: it runs a model, so one such job at a time."""

    whole_machine: bool = False


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One DVC stage to do, in a project folder, with a whole environment."""

    stage: str
    root: Path
    environment: Mapping[str, str]
    resource: Resource = field(default_factory=Resource)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job that succeeded went."""

    outcome: Outcome
    seconds: float
