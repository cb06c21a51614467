"""Shards of a merge that are done, so that one that was killed goes on instead of beginning anew."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json
from stages.merge.checkpoint import Checkpoint
from stages.merge.tensor_report import TensorReport
from stages.merge.writing import Shard

JOURNAL = "merge-in-progress.json"


class FinishedShards:
    """The journal of a working folder: what is merged, and the reports of the files that are whole.

    A folder that was begun with other inputs or settings is emptied. One without a journal is not ours: InputError.
    """

    def __init__(self, folder: Path, checkpoints: Sequence[Checkpoint], settings: object) -> None:
        self._folder = folder
        self._path = folder / JOURNAL
        digest = _digest(checkpoints, settings)
        self._journal: dict[str, Any] = {"digest": digest, "files": {}}
        found = self._found()
        if found is not None and found.get("digest") == digest:
            self._journal = found
            return
        if folder.exists():
            if found is None and any(folder.iterdir()):
                raise InputError(
                    f"{folder} is where the merge works, but another program's files are in it. Move them away."
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_json(self._path, self._journal)

    def _found(self) -> dict[str, Any] | None:
        if not self._path.is_file():
            return None
        value = read_json(self._path)
        return value if isinstance(value, dict) else {}

    def get(self, shard: Shard) -> list[TensorReport] | None:
        """The reports of a file that is whole, None if it is to be made."""
        rows = self._journal["files"].get(shard.file)
        if rows is None or not (self._folder / shard.file).is_file():
            return None
        return [TensorReport.of_row(row) for row in rows]

    def add(self, shard: Shard, reports: Sequence[TensorReport]) -> None:
        """The file is in place."""
        self._journal["files"][shard.file] = [report.as_row() for report in reports]
        write_json(self._path, self._journal)


def _digest(checkpoints: Sequence[Checkpoint], settings: object) -> str:
    """Inputs by place, size and time of change of their files: hashing the bytes would cost as much as merging them."""
    digest = hashlib.sha256(repr(settings).encode())
    for checkpoint in checkpoints:
        for path in sorted({checkpoint[name].path for name in checkpoint.names}):
            state = path.stat()
            digest.update(f"\n{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()
