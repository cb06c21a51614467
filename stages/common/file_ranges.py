"""Shards of a JSONL file: byte ranges that end at line ends, small to send to a worker, which reads its own records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from stages.common.errors import InputError

R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True)
class FileRange:
    """Bytes [start, end) of a file: whole lines."""

    path: Path
    start: int
    end: int


def line_ranges(path: Path, max_bytes: int) -> Iterator[FileRange]:
    """Ranges of at most `max_bytes`, a longer line alone. InputError if the file is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run the stage that makes it (`longfuse plan` names it).") from None
    with file:
        start = end = 0
        for line in file:
            if end > start and end + len(line) - start > max_bytes:
                yield FileRange(path, start, end)
                start = end
            end += len(line)
        if end > start:
            yield FileRange(path, start, end)


def iter_range(piece: FileRange, record_type: type[R]) -> Iterator[R]:
    """The records of a range, one line in memory at a time. InputError names the byte where a damaged line begins."""
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        position = piece.start
        while position < piece.end:
            line = file.readline()
            if line.strip():
                try:
                    yield record_type.model_validate(json.loads(line))
                except (ValidationError, ValueError) as error:
                    raise InputError(
                        f"{piece.path}: the line at byte {position} is no {record_type.__name__} ({error}). "
                        "Delete the file and run again."
                    ) from None
            position += len(line)
