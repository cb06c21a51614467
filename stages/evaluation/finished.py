"""Chunks of predictions that are done, kept in state_dir so that a crash loses one chunk at most."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.evaluation.base import Prediction


class FinishedChunks:
    """Chunks that are done, in a JSONL file: one line per chunk, the first line names the questions.

    A file of other questions, or the torn end of one, is discarded.
    """

    def __init__(self, path: Path, digest: str, sizes: Sequence[int]) -> None:
        self._path = path
        self._chunks: list[list[Prediction]] = []
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if lines and _parsed(lines[0]) == {"questions": digest}:
            for line, size in zip(lines[1:], sizes, strict=False):
                chunk = _chunk(line)
                if chunk is None or len(chunk) != size:
                    break
                self._chunks.append(chunk)
            whole = b"".join(lines[: 1 + len(self._chunks)])
        else:
            whole = json.dumps({"questions": digest}).encode() + b"\n"
        self._write(whole, "wb")

    def get(self, number: int) -> list[Prediction] | None:
        """The predictions of chunk `number` if it is done."""
        return self._chunks[number] if number < len(self._chunks) else None

    def add(self, number: int, predictions: list[Prediction]) -> None:
        """Append the next chunk."""
        assert number == len(self._chunks), "chunks are finished in order"
        self._chunks.append(predictions)
        line = json.dumps([prediction.model_dump(mode="json") for prediction in predictions], ensure_ascii=False)
        self._write(line.encode() + b"\n", "ab")

    def _write(self, data: bytes, mode: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open(mode) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: bytes) -> Any:
    """A whole line as JSON; None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _chunk(line: bytes) -> list[Prediction] | None:
    value = _parsed(line)
    if not isinstance(value, list):
        return None
    try:
        return [Prediction.model_validate(item) for item in value]
    except ValidationError:
        return None
