"""Is the corpus folder fit to be read? Asked before anything runs, since DVC versions the folder as a whole.

Documents that ingest cannot use (binary, too large, in no known format) are skipped and listed by ingest; here stands only
what stops DVC from taking the folder's hash at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.common.errors import InputError

_CHANGE_CORPUS = "Change `ingest.sources` in params.yaml or give --corpus DIR."


def check_corpus_place(params: Mapping[str, Any], root: Path) -> None:
    """InputError if the corpus folder holds or lies in a folder that the pipeline itself writes."""
    sources = params["ingest"]["sources"]
    resolved, project = (root / sources).resolve(), root.resolve()
    for own in (project / "outputs", project / ".state", project / ".dvc", project / ".git"):
        if resolved == own or own in resolved.parents or resolved in own.parents:
            raise InputError(
                f"the corpus folder {sources!r} (ingest.sources) holds or lies in {own.relative_to(project)}/, which the "
                f"pipeline writes. {_CHANGE_CORPUS}"
            )


def check_corpus(params: Mapping[str, Any], root: Path) -> None:
    """InputError unless `ingest.sources` is a folder with at least one file that DVC can take a hash of as a whole."""
    sources = params["ingest"]["sources"]
    folder = root / sources
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise InputError(f"the corpus folder {sources!r} (ingest.sources) {what}. {_CHANGE_CORPUS}")
    files, obstacles = 0, []
    for directory, _, names in os.walk(folder):
        for name in names:
            files += 1
            reason = _obstacle(os.path.join(directory, name), name)  # noqa: PTH118  a Path each would cost seconds
            if reason:
                shown = os.path.relpath(os.path.join(directory, name), folder)  # noqa: PTH118
                obstacles.append(f"\n  {shown.encode(errors='backslashreplace').decode()}: {reason}")
    if not files:
        raise InputError(
            f"the corpus folder {sources!r} (ingest.sources) is empty. Put documents there. {_CHANGE_CORPUS}"
        )
    if obstacles:
        more = f"\n  and {len(obstacles) - 10} more" if len(obstacles) > 10 else ""
        raise InputError(
            f"the corpus folder {sources!r} (ingest.sources) is versioned as a whole, and DVC cannot read:"
            f"{''.join(obstacles[:10])}{more}\nMend these files or move them out of the folder."
        )


def _obstacle(path: str, name: str) -> str | None:
    """Why DVC would fail on a file (or wait for ever), None if it would not."""
    if name == ".dvcignore":
        return "a .dvcignore is allowed at the top of the project only"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError:
        return "a link to nothing" if os.path.islink(path) else "it cannot be examined"  # noqa: PTH114
    if not stat.S_ISREG(mode):
        return "neither a file nor a folder"
    return None if os.access(path, os.R_OK) else "no permission to read it"
