"""Parsed and measured documents by content: a second run, or one that was interrupted, parses only what is new.

A key is the hash of everything that the result depends on: this package's sources, the versions of its parsers, the
tokenizer, the unit's id and path, and the bytes of its files. A value is one JSON file, written beside its name and renamed;
one that cannot be read back is parsed again. Workers write side by side, each its own keys.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from stages.common.records import Record, Table
from stages.ingest.parsed import ParsedUnit
from stages.ingest.quality import Quality

_PARSERS = (
    "beautifulsoup4",
    "charset-normalizer",
    "lxml",
    "markdownify",
    "numpy",
    "openpyxl",
    "pdfplumber",
    "py3langid",
    "pyarrow",
    "pylatexenc",
    "tokenizers",
)


class Measured(Record):
    """What is known of a document's text."""

    tokens: int
    language: str
    licence: str | None = Field(description="As the document's own head says.")
    tables: list[Table]
    quality: Quality
    text_key: str = Field(description="Equal for texts that differ in white space only.")
    signature: str = Field(description="MinHash signature, uint32[H] little-endian, in hexadecimal.")


class CachedUnit(Record):
    """What came out of one unit; `measured` has one entry per document."""

    unit: ParsedUnit
    measured: list[Measured]


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
    """A folder of `<key>.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> CachedUnit | None:
        """The cached value; None if there is none, or if the file is damaged."""
        try:
            found = CachedUnit.model_validate_json((self._folder / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return found if len(found.measured) == len(found.unit.documents) else None

    def put(self, key: str, value: CachedUnit) -> None:
        """Write a value. Not forced to the disk: a file that a power cut tears is made again."""
        partial = self._folder / f"{key}.{os.getpid()}.partial"
        partial.write_text(value.model_dump_json(), encoding="utf-8", newline="")
        partial.replace(self._folder / f"{key}.json")

    def prune(self, used: Iterable[str]) -> None:
        """Delete all entries but those of these keys: what belongs to other corpora and older files."""
        keep = {f"{key}.json" for key in used}
        for path in self._folder.iterdir():
            if path.name not in keep:
                path.unlink()
