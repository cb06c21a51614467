"""Parsed documents by content: a second run parses only what is new.

A key is the hash of everything that the result depends on: this package's sources, the versions of its parsers, the
tokenizer, the unit's id and path, and the bytes of its files. A value is one JSON file, written beside its name and renamed,
so a file that exists is whole; one that cannot be read back is parsed again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from stages.common.records import Record
from stages.common.storage import write_text
from stages.ingest.readers import ParsedUnit

_PARSERS = ("beautifulsoup4", "lxml", "markdownify")


class CountedUnit(Record):
    """What is cached: documents, problems, and the length of each document in tokens."""

    unit: ParsedUnit
    tokens: list[int] = Field(description="One count per document.")


def parser_version(tokenizer_json: Path) -> str:
    """Changes with every edit of this package, of its parsers, or of the tokenizer."""
    digest = hashlib.sha256(unicodedata.unidata_version.encode())
    for source in [*sorted(Path(__file__).parent.glob("*.py")), tokenizer_json]:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    for name in _PARSERS:
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


def content_key(version: str, unit_id: str, source: str, contents: dict[str, bytes]) -> str:
    """The key of one unit. Lengths come first, so that no two inputs spell the same bytes."""
    digest = hashlib.sha256()
    for part in [version.encode(), unit_id.encode(), source.encode(), *_flatten(contents)]:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _flatten(contents: dict[str, bytes]) -> Iterable[bytes]:
    for path, data in contents.items():
        yield path.encode()
        yield data


class ParsedCache:
    """A folder of `<key>.json`; `prune` leaves only what this run used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> CountedUnit | None:
        """The cached value; None if there is none, or if the file is damaged."""
        self._used.add(f"{key}.json")
        try:
            return CountedUnit.model_validate_json((self._folder / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, key: str, value: CountedUnit) -> None:
        write_text(self._folder / f"{key}.json", value.model_dump_json())

    def prune(self) -> None:
        """Delete the entries that neither `get` nor `put` named: those of other corpora and older files."""
        for path in self._folder.iterdir():
            if path.name not in self._used:
                path.unlink()
