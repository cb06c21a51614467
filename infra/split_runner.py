"""Some stages of a run here, others elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infra.jobs import JobResult, JobSpec
from infra.runner import OnLine


class SplitRunner:
    """Some stages on EC2, the others here. `elsewhere` tells which."""

    def __init__(self, here: Any, there: Any, elsewhere: Callable[[str], bool]) -> None:
        self._here = here
        self._there = there
        self._elsewhere = elsewhere

    def submit(self, spec: JobSpec) -> tuple[Any, Any]:
        """See Runner.submit."""
        runner = self._there if self._elsewhere(spec.stage) else self._here
        return runner, runner.submit(spec)

    def wait(self, job: tuple[Any, Any], on_line: OnLine) -> JobResult:
        """See Runner.wait."""
        result: JobResult = job[0].wait(job[1], on_line)
        return result

    def cancel(self, job: tuple[Any, Any]) -> None:
        """See Runner.cancel."""
        job[0].cancel(job[1])

    def cancel_all(self, *, at_once: bool = False) -> None:
        """See Runner.cancel_all."""
        self._there.cancel_all(at_once=at_once)
        self._here.cancel_all(at_once=at_once)
