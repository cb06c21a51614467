"""Why a stage ended: what its exit status does not say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

KILLED = 137
FULL_BYTES = 4 << 20
FULL_TEXT = "No space left on device"


class OomWatch:
    """Counts the processes that the kernel killed for memory since it was made."""

    def __init__(self, vmstat: Path = Path("/proc/vmstat")) -> None:
        self._vmstat = vmstat
        self._before = self._count()

    def kills(self) -> int:
        return self._count() - self._before

    def _count(self) -> int:
        try:
            for line in self._vmstat.read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            pass
        return 0


class Reserve:
    """Space set aside so that a full disk can still be reported: the file is removed when it is needed."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._path = folder / "reserve"
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, size_bytes))
        except OSError:
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Free the space."""
        self._path.unlink(missing_ok=True)


def disk_is_full(folder: Path, tail: Iterable[str]) -> bool:
    """True if the disk is full, or the stage said that it was."""
    return shutil.disk_usage(folder).free < FULL_BYTES or any(FULL_TEXT in line for line in tail)
