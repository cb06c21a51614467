"""The seam between the flow and the place where a stage runs: this machine now, EC2 instances later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from infra.jobs import JobResult, JobSpec

OnLine = Callable[[str], None]
Job = TypeVar("Job")


class Runner(Protocol[Job]):
    """Does DVC stages. `Job` is the runner's own handle; every method may be called from any thread."""

    def submit(self, spec: JobSpec) -> Job:
        """Start the stage, return its handle."""

    def wait(self, job: Job, on_line: OnLine) -> JobResult:
        """Hand over each line of output in this thread until the stage has ended.

        Raises StageFailedError with the tail of the output, TransientError if trying again may help, StageStoppedError
        after `cancel`. If anything else is raised here (an interrupt, an error in `on_line`), the job is cancelled.
        """

    def cancel(self, job: Job) -> None:
        """Stop the stage and everything that it started; returns when nothing is left. Never raises."""

    def cancel_all(self, *, at_once: bool = False) -> None:
        """Cancel every job that is under way; `at_once`: without time to save anything. No more can be submitted."""
