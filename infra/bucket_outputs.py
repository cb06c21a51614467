"""Outputs of stages that lie in a bucket, not (or only in part) in the working tree: one small record per output.

A record is written when a job's entry comes into dvc.lock, and counts as long as dvc.lock names the same md5. It says what
the bucket held then; who needs the data, or starts a run, looks whether it still does (`infra/ec2/outputs.py`).
Standard library only: a plan reads these without a cloud.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

FOLDER = Path(".state") / "in_bucket"


@dataclass(frozen=True, kw_only=True)
class BucketOutput:
    """One output of a stage. files: path below the output (empty for an output that is a file) -> (md5, bytes)."""

    stage: str
    path: str  # as in dvc.yaml
    md5: str
    bucket: str
    region: str
    files: Mapping[str, tuple[str, int]]

    def place(self, name: str) -> str:
        """Path of one of its files below the project."""
        return PurePosixPath(self.path, name).as_posix()

    def absent(self, root: Path, below: str | None = None) -> list[str]:
        """Names of its files that are not here; `below`: of those at or below that path of the project."""
        return [
            name
            for name in self.files
            if (below is None or self.place(name) == below or self.place(name).startswith(f"{below}/"))
            and not (root / self.place(name)).exists()
        ]

    def bytes_of(self, names: list[str]) -> int:
        """Size of some of its files."""
        return sum(self.files[name][1] for name in names)


def _file(root: Path, path: str) -> Path:
    return root / FOLDER / f"{path}.json"


def note(root: Path, output: BucketOutput) -> None:
    """Write down where an output lies; the record of an older one at the same path is replaced."""
    file = _file(root, output.path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(output), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(file)


def forget(root: Path, output: BucketOutput) -> None:
    """It is not there any more."""
    _file(root, output.path).unlink(missing_ok=True)


def recorded(root: Path) -> dict[str, BucketOutput]:
    """Path -> record. One that cannot be read says nothing: the stage's run in the bucket will be asked again."""
    found: dict[str, BucketOutput] = {}
    for file in sorted((root / FOLDER).rglob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            files = {name: (str(md5), int(size)) for name, (md5, size) in values.pop("files").items()}
            output = BucketOutput(**values, files=files)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
        found[output.path] = output
    return found


def is_current(root: Path, output: BucketOutput) -> bool:
    """Whether dvc.lock still names that result; a stage may have run again since, here."""
    lock = root / "dvc.lock"
    return lock.is_file() and f"md5: {output.md5}" in lock.read_text(encoding="utf-8")


def in_words(size: int) -> str:
    """`60.2 GB`"""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
