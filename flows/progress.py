"""What `longfuse run` shows while it works: bars in a terminal, plain lines in a pipe or in CI."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

MARKS = {"ran": "done", "restored": "restored", "skipped": "unchanged", "failed": "FAILED", "stopped": "stopped"}


class Progress:
    """Told of everything that happens, from several threads. This one shows nothing: a deployed run has its page."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is shown after this but what `say` is given."""

    def say(self, text: str) -> None:
        """A message for the reader."""

    def expect(self, stages: int) -> None:
        """How many stages will be worked on."""

    def started(self, stage: str) -> None:
        """A stage's command was started."""

    def line(self, stage: str, text: str) -> None:
        """A stage printed a line."""

    def ended(self, stage: str, state: str, seconds: float) -> None:
        """A stage ended; `state` as in the journal."""


class PlainProgress(Progress):
    """Every event (with the clock's time) and every line of a stage's output, one to a line."""

    def __init__(self) -> None:
        self._guard = threading.Lock()

    def _print(self, text: str) -> None:
        with self._guard:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        self._print(text)

    def expect(self, stages: int) -> None:
        self._print(f"{_clock()} {stages} stages")

    def started(self, stage: str) -> None:
        self._print(f"{_clock()} {stage}: started")

    def line(self, stage: str, text: str) -> None:
        self._print(f"{stage}: {text}")

    def ended(self, stage: str, state: str, seconds: float) -> None:
        self._print(f"{_clock()} {stage}: {MARKS.get(state, state)}{_took(state, seconds)}")


class RichProgress(Progress):
    """A bar over all stages and, below it, a line per running stage: elapsed time and its last line of output."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._console = Console()
        self._bars = progress.Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[stage]}", markup=False),
            BarColumn(bar_width=12),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            console=self._console,
            expand=True,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._all = self._bars.add_task("", stage="all stages", note="", total=None)
        self._guard = threading.Lock()
        self._done = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def expect(self, stages: int) -> None:
        self._bars.update(self._all, total=stages, note=f"0 of {stages}")

    def started(self, stage: str) -> None:
        with self._guard:
            if stage in self._tasks:  # another attempt
                self._bars.remove_task(self._tasks.pop(stage))
            self._tasks[stage] = self._bars.add_task("", stage=stage, note="", total=None)

    def line(self, stage: str, text: str) -> None:
        with self._guard:
            if stage in self._tasks:
                self._bars.update(self._tasks[stage], note=text)

    def ended(self, stage: str, state: str, seconds: float) -> None:
        with self._guard:
            task = self._tasks.pop(stage, None)
            if task is not None:
                self._bars.remove_task(task)
            self._done += 1
            total = self._bars.tasks[0].total
            self._bars.update(self._all, completed=self._done, note=f"{self._done} of {total:.0f}" if total else "")
        self.say(f"{MARKS.get(state, state):<10}{stage:<34}{_took(state, seconds)}")


def make_progress(*, plain: bool) -> Progress:
    """Bars if standard output is a terminal and nothing speaks against it."""
    if plain or not sys.stdout.isatty():
        return PlainProgress()
    return RichProgress()


def seconds_text(seconds: float) -> str:
    """`4.2 s`, `1 min 05 s`, `2 h 03 min`"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _took(state: str, seconds: float) -> str:
    return f" ({seconds_text(seconds)})" if state in ("ran", "restored", "failed", "stopped") else ""


def _clock() -> str:
    return time.strftime("%H:%M:%S")
