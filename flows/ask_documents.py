"""The documents of `longfuse ask` as one UTF-8 text that can be read piece by piece.

A single text file is read where it lies, whatever its size. Several files, and formats that need a reader (HTML, PDF, tables,
dialogues), are written one after the other into a scratch file, each below a line with its title.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from stages.common.errors import InputError
from stages.common.records import Category

logger = logging.getLogger(__name__)

_PLAIN_SUFFIXES = frozenset({"", ".txt", ".text", ".md", ".markdown", ".rst", ".log"})
_MAX_READ_BYTES = 512 << 20  # of a file that a reader holds in memory; plain text is streamed
_BLOCK_CHARACTERS = 1 << 20


def one_text(paths: Sequence[Path], scratch: Path) -> Path:
    """A text file that holds all documents; it lies in `scratch` unless there is one plain text alone.

    Raises InputError if a file is missing, of no known format, empty of text or cannot be read.
    """
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is no file. Give --document a text, HTML, PDF, LaTeX, CSV, XLSX or JSON file.")
    if len(paths) == 1 and paths[0].suffix.lower() in _PLAIN_SUFFIXES:
        return paths[0]
    target = scratch / "documents.txt"
    with target.open("w", encoding="utf-8", newline="") as file:
        for path in paths:
            file.write(f"# {path.name}\n\n")
            if path.suffix.lower() in _PLAIN_SUFFIXES:
                _copy(path, file.write)
            else:
                file.write(_read(path))
            file.write("\n\n")
    return target


def _copy(path: Path, write: object) -> None:
    assert callable(write)
    try:
        with path.open(encoding="utf-8", newline="") as source:
            while block := source.read(_BLOCK_CHARACTERS):
                write(block)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid UTF-8 ({error.reason}). Convert it to UTF-8 text first.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _read(path: Path) -> str:
    """The text of a file that needs a reader: ingest's own. Plain text is asked about without their packages (vLLM's environment)."""
    from stages.ingest.discover import Unit
    from stages.ingest.loading import load
    from stages.ingest.readers import check_format, parse
    from stages.ingest.reasons import UnusableError

    unit = Unit(id=path.name, category=Category.GENERAL, source=path.name, members=(path.name,))
    try:
        check_format(unit)
        found = parse(unit, {path.name: load(path, _MAX_READ_BYTES)}, _MAX_READ_BYTES)
    except UnusableError as error:
        raise InputError(f"{path} cannot be used: {error.detail} ({error.reason}).") from None
    for problem in found.problems:
        logger.warning("%s: %s (%s)", path, problem.detail, problem.reason)
    if not found.documents:
        raise InputError(f"{path} holds no text that can be read.")
    return "\n\n".join(document.text for document in found.documents)
