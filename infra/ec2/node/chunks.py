"""Ships what grows (a log, a metric spool) as numbered chunks that never change: `log/000000`, `log/000001`, ...

A reader asks for the next number until there is none; nothing is read twice and nothing is rewritten.
"""

from __future__ import annotations

import threading
from pathlib import Path

from .bucket import Bucket

CHUNK_BYTES = 1 << 20


HELD_BYTES = 32 << 20


class LineChunks:
    """Ships lines that the agent itself collects. They are held in memory, so that a full disk does not silence them."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self.count = 0
        self._lines: list[str] = []
        self._held = 0
        self._guard = threading.Lock()
        self._shipping = threading.Lock()

    def add(self, line: str) -> None:
        """Append a line. While the storage does not answer, so many bytes are held; what comes then is counted only."""
        with self._guard:
            self._held += len(line) + 1
            if self._held <= HELD_BYTES:
                self._lines.append(line)

    def ship(self) -> None:
        """Upload what came since the last call. Raises GivenUpError, and keeps the lines then."""
        with self._shipping:
            with self._guard:
                lines, held = list(self._lines), self._held
            if not lines:
                return
            if held > HELD_BYTES:
                lines.append(f"[{held - HELD_BYTES} bytes of output were dropped: the storage did not answer]")
            self._bucket.put(f"{self._prefix}/{self.count:06d}", ("\n".join(lines) + "\n").encode())
            self.count += 1
            with self._guard:
                kept = len(lines) if held <= HELD_BYTES else len(lines) - 1
                del self._lines[:kept]
                self._held = sum(len(line) + 1 for line in self._lines)


class FileChunks:
    """Ships new whole lines of a file that others append to. One thread at a time."""

    def __init__(self, bucket: Bucket, prefix: str, path: Path) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self.path = path
        self.count = 0
        self.bytes = 0  # of the file, shipped so far
        self._guard = threading.Lock()

    def skip(self, count: int) -> None:
        """So many bytes were shipped by an earlier attempt: begin after them."""
        self.bytes = count

    def ship(self, *, last: bool = False) -> None:
        """Upload what came since the last call; `last`: also a line without an end. Raises GivenUpError."""
        with self._guard:
            while data := self._next(last):
                self._bucket.put(f"{self._prefix}/{self.count:06d}", data)
                self.count += 1
                self.bytes += len(data)

    def _next(self, last: bool) -> bytes:
        if not self.path.is_file():
            return b""
        with self.path.open("rb") as file:
            file.seek(self.bytes)
            data = file.read(CHUNK_BYTES)
        if last:
            return data
        end = data.rfind(b"\n") + 1
        return data[:end] if end or len(data) < CHUNK_BYTES else data
