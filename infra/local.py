"""Does DVC stages on this machine: `dvc --wait-for-lock repro -s NAME` in a session of its own.

Measured traps that this file minds: without `--wait-for-lock` a finished stage is thrown away if the lock is busy for
3 s at its end; `-q` hides the error text; a closed pipe aborts DVC; a killed DVC leaves its stage running.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

import infra.supervise
from infra.errors import StageFailedError, StageStoppedError, TransientError
from infra.jobs import JobResult, JobSpec, JobState, Outcome
from infra.runner import OnLine

TAIL_LINES = 40
MAX_LINE_BYTES = 16_384  # a longer line comes in pieces
# DVC's own words, tested against the pinned version.
OUTCOME_LINES = {
    re.compile(r"^Running stage '(?P<stage>[^']+)'"): Outcome.RAN,
    re.compile(r"^Stage '(?P<stage>[^']+)' is cached - skipping run"): Outcome.RESTORED,
    re.compile(r"^Stage '(?P<stage>[^']+)' didn't change, skipping"): Outcome.SKIPPED,
}
TRANSIENT_LINE = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Time given to a stage after each signal before the next, harder one."""

    interrupt_seconds: float = 15.0  # SIGINT: a training stage writes a checkpoint
    terminate_seconds: float = 5.0  # SIGTERM; then SIGKILL


@dataclass(eq=False, kw_only=True)
class LocalJob:
    """A stage under way. Its process leads the process group that signals are sent to."""

    spec: JobSpec
    process: subprocess.Popen[bytes]
    started: float
    state: JobState = JobState.RUNNING
    ended: threading.Event = field(default_factory=threading.Event)


class LocalRunner:
    """Runs each stage as a child process that dies with this one."""

    def __init__(self, ladder: Ladder | None = None) -> None:
        self._ladder = ladder or Ladder()
        self._jobs: set[LocalJob] = set()
        self._closed = False
        self._guard = threading.Lock()

    def submit(self, spec: JobSpec) -> LocalJob:
        """Start the stage. Raises StageStoppedError after `cancel_all`: a stopping run starts nothing."""
        dvc = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", spec.stage]
        supervisor = [sys.executable, "-P", str(Path(infra.supervise.__file__)), "lifeline", "--"]
        with self._guard:
            if self._closed:
                raise StageStoppedError(f"{spec.stage} was not started: the run is being stopped")
            if not self._jobs:
                clear_dead_locks(spec.root)
            process = subprocess.Popen(
                supervisor + dvc,
                cwd=spec.root,
                env=dict(spec.environment),
                stdin=subprocess.PIPE,  # the lifeline: nothing is ever written to it
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            job = LocalJob(spec=spec, process=process, started=time.monotonic())
            self._jobs.add(job)
        threading.Thread(target=self._watch, args=(job,), name=f"watch {spec.stage}", daemon=True).start()
        return job

    def _watch(self, job: LocalJob) -> None:
        """Wait for the end, then kill what may be left of the group, so that the pipe ends as well."""
        job.process.wait()
        _signal_group(job, signal.SIGKILL)
        with self._guard:
            self._jobs.discard(job)
        job.ended.set()

    def wait(self, job: LocalJob, on_line: OnLine) -> JobResult:
        """See Runner.wait."""
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        outcome: Outcome | None = None
        transient: str | None = None
        try:
            assert job.process.stdout is not None
            for line in _lines(job.process.stdout):
                tail.append(line)
                outcome = outcome or _outcome(line, job.spec.stage)
                if TRANSIENT_LINE.search(line):
                    transient = line
                on_line(line)
            job.ended.wait()
        except BaseException:  # also KeyboardInterrupt and Prefect's TerminationSignal
            self.cancel(job)
            raise
        seconds = time.monotonic() - job.started
        exit_code = job.process.returncode
        if job.state is JobState.STOPPED:
            raise StageStoppedError(f"{job.spec.stage} was stopped after {seconds:.0f} s")
        if exit_code == 0:
            job.state = JobState.SUCCEEDED
            return JobResult(outcome=outcome or Outcome.SKIPPED, seconds=seconds)
        job.state = JobState.FAILED
        if transient is not None and outcome is None:
            raise TransientError(f"{job.spec.stage}: {transient}")
        raise StageFailedError(job.spec.stage, exit_code, tuple(tail))

    def cancel(self, job: LocalJob) -> None:
        """SIGINT, then SIGTERM, then SIGKILL to the group, each after its grace time. Never raises."""
        if job.ended.is_set():
            return
        job.state = JobState.STOPPED
        _signal_group(job, signal.SIGINT)
        if _ended(job, self._ladder.interrupt_seconds):
            return
        _signal_group(job, signal.SIGTERM)
        if _ended(job, self._ladder.terminate_seconds):
            return
        _kill(job)

    def cancel_all(self, *, at_once: bool = False) -> None:
        """Start no more jobs; cancel those under way, side by side; `at_once`: kill them."""
        with self._guard:
            self._closed = True
            jobs = list(self._jobs)
        if at_once:
            for job in jobs:
                job.state = JobState.STOPPED
                _kill(job)
        threads = [threading.Thread(target=self.cancel, args=(job,), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _ended(job: LocalJob, seconds: float) -> bool:
    """Wait for the end with a bound; an interrupt during it (an impatient Ctrl-C) cuts the wait short."""
    try:
        return job.ended.wait(seconds)
    except BaseException:  # the ladder must go on to its last step, and its caller raises what it had anyway  # noqa: BLE001
        return job.ended.is_set()


def _kill(job: LocalJob) -> None:
    """Let the supervisor kill and bury everything below it; if it cannot, kill the group with it."""
    try:
        assert job.process.stdin is not None
        job.process.stdin.write(b"k")
        job.process.stdin.flush()
    except (OSError, ValueError):  # it has gone, or somebody was here before
        pass
    if not _ended(job, 5.0):
        _signal_group(job, signal.SIGKILL)
        _ended(job, 5.0)


def _signal_group(job: LocalJob, number: signal.Signals) -> None:
    try:
        os.killpg(job.process.pid, number)
    except (ProcessLookupError, PermissionError):  # nobody left; macOS says the latter of zombies
        return


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines until the end of the stream; a carriage return (progress bars) ends a line too."""
    for raw in iter(lambda: stream.readline(MAX_LINE_BYTES), b""):
        for piece in raw.decode("utf-8", errors="replace").replace("\r", "\n").split("\n"):
            if piece.strip():
                yield piece.rstrip()


def _outcome(line: str, stage: str) -> Outcome | None:
    for pattern, outcome in OUTCOME_LINES.items():
        match = pattern.match(line)
        if match and match["stage"] == stage:
            return outcome
    return None


def clear_dead_locks(root: Path) -> None:
    """Drop DVC's list of busy files if every process in it is dead; for when no DVC of ours runs.

    DVC does so itself, but it takes a zombie for alive (a container without an init keeps them for ever), and a process
    killed while it wrote the list leaves one that no DVC can read.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    for _ in range(2):
        try:
            lists = json.loads(path.read_text(encoding="utf-8") or "{}")
            readers = [info for infos in lists.get("read", {}).values() for info in infos]
            pids = {int(info["pid"]) for info in [*readers, *lists.get("write", {}).values()]}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            time.sleep(0.2)  # somebody's own `dvc repro` may be writing it right now
            continue
        if not any(_lives(pid) for pid in pids):
            path.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
