"""Where the rows of a benchmark lie: files of the user's, else the hub, else nowhere, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import InputError
from stages.evaluation.base import Availability, BrokenRow, LoadRequest
from stages.evaluation.rows import Located, find_file, hub_file, hub_rows, read_rows


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """folders: names under --data that hold the files; patterns: of the files, all that fit the first folder are read.

    hub: `name` or `name:config` of the official data set; None: it is not there in a form that this loader reads.
    hub_file: the file to be fetched of it where a split is not to be had.
    """

    folders: tuple[str, ...]
    patterns: tuple[str, ...] = ("data.jsonl", "*.parquet", "data.json")
    hub: str | None = None
    split: str = "test"
    hub_file: str | None = None

    def files(self, request: LoadRequest) -> list[Path]:
        """The files at hand, sorted; those of the first pattern that fits anything."""
        if request.data_dir is None:
            return []
        for folder in (request.data_dir / name for name in self.folders):
            for pattern in self.patterns:
                found = sorted(path for path in folder.glob(pattern) if path.is_file())
                if found:
                    return found
        # A file of another benchmark may lie in the folder itself: only a folder that is named after this one counts.
        if request.data_dir.name in self.folders:
            found_file = find_file(request, self.folders[0], self.patterns)
            return [] if found_file is None else sorted(found_file.parent.glob(self.patterns[0])) or [found_file]
        return []

    def available(self, request: LoadRequest) -> Availability:
        """Looks for the files; downloads nothing."""
        files = self.files(request)
        if files:
            return Availability(True, f"{files[0].parent.name}/: {', '.join(path.name for path in files[:4])}")
        if request.use_hub and self.hub is not None:
            return Availability(True, f"from the hub: {self.hub}")
        wanted = f"put {self.folders[0]}/{self.patterns[0]} into the folder of --data"
        return Availability(False, wanted + (f", or fetch {self.hub} with --hub" if self.hub is not None else ""))

    def rows(self, request: LoadRequest) -> tuple[list[Located], list[BrokenRow]]:
        """All rows. InputError if there are none to be had."""
        files = self.files(request)
        if not files:
            if self.hub is None or not request.use_hub:
                raise InputError(self.available(request).reason)
            name, _, config = self.hub.partition(":")
            if self.hub_file is not None:
                return read_rows(hub_file(name, self.hub_file))
            return hub_rows(name, self.split, config or None), []
        rows: list[Located] = []
        broken: list[BrokenRow] = []
        for path in files:
            good, bad = read_rows(path)
            rows += good
            broken += bad
        return rows, broken
