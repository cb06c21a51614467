"""The bytes of a file, never more than the limit, whatever its size says; `.gz` is unpacked on the way."""

from __future__ import annotations

import gzip
import stat
import zlib
from pathlib import Path

from stages.ingest.reasons import DropReason, UnusableError

_BLOCK_BYTES = 1 << 20


def load(path: Path, max_bytes: int) -> bytes:
    """Bytes of a file, unpacked if its name ends with `.gz`. Raises UnusableError (too_large, unreadable, bad_gzip)."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # replaced since the walk
            raise UnusableError(DropReason.NOT_A_FILE, "a pipe, socket or device")
        if found.st_size > max_bytes:
            raise _too_large(max_bytes)
        if path.suffix.lower() == ".gz":
            return _unpack(path, max_bytes)
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UnusableError(DropReason.UNREADABLE, error.strerror or "cannot be read") from None
    if len(data) > max_bytes:  # it grew
        raise _too_large(max_bytes)
    return data


def _too_large(max_bytes: int) -> UnusableError:
    return UnusableError(
        DropReason.TOO_LARGE, f"more than {max_bytes / 1e6:g} MB (ingest.max_file_mb); split it or raise the limit"
    )


def _unpack(path: Path, max_bytes: int) -> bytes:
    blocks = []
    size = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK_BYTES):
                size += len(block)
                if size > max_bytes:
                    raise UnusableError(
                        DropReason.TOO_LARGE, f"unpacks to more than {max_bytes / 1e6:g} MB (ingest.max_file_mb)"
                    )
                blocks.append(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnusableError(DropReason.BAD_GZIP, str(error)) from None
    return b"".join(blocks)
