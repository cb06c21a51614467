"""One pipeline run per working tree: DVC refuses two commands on the same files, and would say so in the middle of a run.

The lock is the operating system's (flock): a killed holder frees it, whatever the file says. The text in the file only
names the holder.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.errors import TreeBusyError


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who runs in this working tree."""

    pid: int
    command: str
    started: float  # seconds since the epoch


def lock_path(state_dir: Path) -> Path:
    """The lock file of a working tree."""
    return state_dir / "run.lock"


@contextmanager
def run_lock(state_dir: Path, command: str) -> Iterator[None]:
    """Hold the working tree for one run. Raises TreeBusyError naming the holder if another process has it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = lock_path(state_dir)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TreeBusyError(_busy(path)) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "command": command, "started": time.time()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def current_holder(state_dir: Path) -> Holder | None:
    """The run that holds the tree now; None if none does. Takes nothing and waits for nothing."""
    path = lock_path(state_dir)
    if not path.is_file():
        return None
    with path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(path) or Holder(pid=0, command="unknown", started=time.time())
    return None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # caught between truncate and write
        return None


def _busy(path: Path) -> str:
    holder = _read(path)
    if holder is None:
        return f"another run is starting in this working tree ({path}). Wait for it, or use a second clone."
    minutes = max(0.0, time.time() - holder.started) / 60
    return (
        f"another run is in progress in this working tree: `{holder.command}`, process {holder.pid}, for "
        f"{minutes:.0f} min. Wait for it (`longfuse status` shows where it is), stop it with `kill -INT {holder.pid}`, "
        "or use a second clone."
    )
