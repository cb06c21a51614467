"""The stage's command in a process group of its own, its output as lines.

A signal goes to the whole group, and the end is the end of the whole group: a shell dies of SIGTERM before its child
has written the checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MAX_LINE_BYTES = 16_384
TAIL_LINES = 40
POLL_SECONDS = 0.05


class Command:
    """A running command. Every line of its output goes to `on_line`."""

    def __init__(
        self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        self._on_line = on_line
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.lines = 0
        self._process = subprocess.Popen(
            list(words),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def returncode(self) -> int | None:
        """The leader's exit status once it has ended: 128 + N after signal N, as shells say."""
        code = self._process.poll()
        if code is None:
            return None
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Signal the group."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def group_lives(self) -> bool:
        """True while anything of the group runs."""
        self._process.poll()
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return not _only_zombies(self._process.pid)

    def wait_group(self, seconds: float) -> bool:
        """Wait for the end of the group; False if it still runs then."""
        deadline = time.monotonic() + seconds
        while self.group_lives():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, time to write a checkpoint, SIGKILL."""
        self.send(signal.SIGTERM)
        if not self.wait_group(grace_seconds):
            self.send(signal.SIGKILL)
            self.wait_group(5.0)

    def finish(self) -> None:
        """Collect the rest of the output. What was daemonised may hold the pipe open: no longer than a second."""
        self._reader.join(1.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in iter(lambda: self._process.stdout.readline(MAX_LINE_BYTES), b""):  # type: ignore[union-attr]
            for piece in raw.decode("utf-8", "replace").replace("\r", "\n").split("\n"):
                if piece.strip():
                    line = piece.rstrip()
                    self.tail.append(line)
                    self.lines += 1
                    self._on_line(line)


def _only_zombies(group: int) -> bool:
    """True if all that is left of a group waits to be reaped."""
    found = False
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            if fields[0] != "Z":
                return False
            found = True
    return found
