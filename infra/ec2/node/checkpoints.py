"""Checkpoints of the stage, kept in the bucket: what another instance resumes from.

    ckpt/000003/<file> ..      the files of the stage's state folder that changed since ckpt/000002
    ckpt/000003/COMMIT         {"epoch", "attempt", "notes", "files": {path: {"key", "sha256", "bytes"}}}; written last

What has no COMMIT was torn and is never used; what has one is checked file by file before it is used, and an older one
taken if it does not fit. Before COMMIT the run's epoch is read: an attempt that was superseded commits nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bucket import Bucket, file_digest

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
KEEP = 2
TRIES = 4


class SupersededError(Exception):
    """A later attempt owns the run."""


class Checkpoints:
    """The state folder and its copies. `still_ours` raises SupersededError if the run has gone on without us."""

    def __init__(
        self, bucket: Bucket, folder: Path, *, attempt: int, epoch: int, still_ours: Callable[[], None]
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._mine = {"attempt": attempt, "epoch": epoch}
        self._still_ours = still_ours
        self.notes: dict[str, Any] = {}  # of the checkpoint that was restored
        self._files: dict[str, dict[str, Any]] = {}  # of the last commit
        self._commits: list[int] = []
        self._seen: tuple[Any, ...] = ()
        self._guard = threading.Lock()

    @property
    def committed(self) -> int:
        """Commits so far, of all attempts."""
        return len(self._commits)

    @property
    def last(self) -> int | None:
        """Number of the last commit."""
        return self._commits[-1] if self._commits else None

    def restore(self) -> int | None:
        """Put the newest good checkpoint into the folder; its number, None if there is none."""
        numbers = sorted(int(key.split("/")[1]) for key in self._bucket.keys("ckpt/") if key.endswith("/COMMIT"))
        for number in reversed(numbers):
            commit = self._bucket.get_json(f"ckpt/{number:06d}/COMMIT")
            if commit is not None and self._fetch(commit["files"]):
                self._files = commit["files"]
                self.notes = commit.get("notes", {})
                self._commits = [known for known in numbers if known <= number]
                self._seen = self._look()
                return number
            logger.warning("checkpoint %06d is damaged: an older one is used", number)
        if numbers:
            self._commits = [numbers[-1]]  # numbers go on; a damaged one is never written over
            self._files = {}
        return None

    def _fetch(self, files: dict[str, dict[str, Any]]) -> bool:
        shutil.rmtree(self._folder, ignore_errors=True)
        for name, facts in files.items():
            path = self._folder / name
            try:
                self._bucket.get_file(facts["key"], path)
            except Exception as error:  # whatever is wrong with this one, an older one may be good  # noqa: BLE001
                logger.warning("%s: %s", facts["key"], error)
                return False
            if file_digest(path) != (facts["sha256"], facts["bytes"]):
                logger.warning("%s: wrong sha256", facts["key"])
                return False
        return True

    def changed(self) -> bool:
        """True if the folder is not as it was at the last commit."""
        return self._look() != self._seen

    def commit(self, notes: dict[str, Any] | None = None) -> int | None:
        """Copy the folder, with notes for whoever restores it; the commit's number, None if there is nothing new to copy. One thread at a time does it.

        What is copied is held by hard links beside the folder: the stage may replace its checkpoints faster than they are
        copied. Raises SupersededError, GivenUpError.
        """
        with self._guard:
            return self._commit(notes or {}) if self.changed() else None

    def _commit(self, notes: dict[str, Any]) -> int | None:
        for _ in range(TRIES):
            looked = self._look()
            if not looked:
                return None
            number = (self._commits[-1] + 1) if self._commits else 1
            held = self._folder.with_name(self._folder.name + ".held")
            try:
                self._hold(held)
                files = self._copy(number, held)
            except FileNotFoundError:  # a newer checkpoint took its place
                time.sleep(0.05)
                continue
            finally:
                shutil.rmtree(held, ignore_errors=True)
            self._still_ours()
            record = {**self._mine, "time": time.time(), "notes": notes, "files": files}
            self._bucket.put_once(f"ckpt/{number:06d}/COMMIT", record)
            self._files, self._seen = files, looked
            self._commits.append(number)
            self._drop_old()
            return number
        return None

    def _hold(self, held: Path) -> None:
        """Make a folder of hard links to the files as they are now."""
        shutil.rmtree(held, ignore_errors=True)  # of an agent that was killed
        held.mkdir()
        for path in self._paths():
            link = held / path.relative_to(self._folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)

    def _copy(self, number: int, held: Path) -> dict[str, dict[str, Any]]:
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(path for path in held.rglob("*") if path.is_file()):
            name = path.relative_to(held).as_posix()
            digest, size = file_digest(path)
            known = self._files.get(name)
            if known is not None and (known["sha256"], known["bytes"]) == (digest, size):
                files[name] = known
                continue
            key = f"ckpt/{number:06d}/{name}"
            digest, size = self._bucket.put_file(key, path)
            files[name] = {"key": key, "sha256": digest, "bytes": size}
        return files

    def _paths(self) -> list[Path]:
        found = []
        for path in sorted(self._folder.rglob("*")):
            relative = path.relative_to(self._folder)
            if path.is_file() and not any(part.endswith(PARTIAL) for part in relative.parts):
                found.append(path)
        return found

    def _look(self) -> tuple[Any, ...]:
        facts = []
        for path in self._paths():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            facts.append((path.relative_to(self._folder).as_posix(), stat.st_size, stat.st_mtime_ns))
        return tuple(facts)

    def _drop_old(self) -> None:
        """Remove files that none of the last commits names, and their COMMIT first."""
        if len(self._commits) <= KEEP:
            return
        kept = {facts["key"] for facts in self._files.values()}
        oldest = self._commits[-KEEP]
        previous = self._bucket.get_json(f"ckpt/{oldest:06d}/COMMIT")
        if previous is None:
            return
        kept |= {facts["key"] for facts in previous["files"].values()}
        old = [key for key in self._bucket.keys("ckpt/") if int(key.split("/")[1]) < oldest and key not in kept]
        commits = [key for key in old if key.endswith("/COMMIT")]
        self._bucket.delete(commits)
        self._bucket.delete([key for key in old if key not in commits])
        self._commits = self._commits[-KEEP:]
