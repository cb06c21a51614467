"""What one shard of documents yields, as a file: an interrupted synthesis reads finished shards back (stages/common/resumable.py).

    triples   a zip of triples.parquet, names.parquet, phrases.npy, rest.json      written by ExtractedFiles
    figures   gzipped JSON of the dataclass, numbers as decimal text               written by JsonFiles

A shard is told by its bytes and by what the rules depend on besides, so a file is never read for other documents.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from stages.common.errors import InputError
from stages.common.file_ranges import FileRange
from stages.common.records import Dropped
from stages.common.resumable import ResultFiles, resumable_map
from stages.common.shards import ShardExecutor
from stages.synthesis.extracted import Extracted

R = TypeVar("R")

_COMPRESSION = 1  # of gzip: figures shrink to a tenth, faster than a disk writes them
_DROPS = TypeAdapter(list[Dropped])


def mapped(
    executor: ShardExecutor,
    function: Callable[[FileRange], R],
    shards: Iterable[FileRange],
    state_dir: Path | None,
    key: Callable[[FileRange], str],
    results: ResultFiles[R],
) -> Iterator[R]:
    """`function` of each shard, in order; with a folder, finished shards are kept there and not computed again."""
    if state_dir is None:
        return executor.map(function, shards)
    return resumable_map(executor, function, shards, state_dir, key, results)


def shard_key(piece: FileRange, what: str) -> str:
    """What a shard's result depends on: `what` names rules and parameters, the rest are the shard's own bytes."""
    digest = hashlib.sha256()
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        left = piece.end - piece.start
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return f"{what} {digest.hexdigest()}"


class ExtractedFiles:
    """Triples and what belongs to them: columns stay columns."""

    suffix = ".zip"

    def write(self, path: Path, result: Extracted) -> None:
        rest = {"documents": result.documents, "dropped": _DROPS.dump_python(result.dropped, mode="json")}
        phrases = io.BytesIO()
        np.save(phrases, result.phrases, allow_pickle=False)
        partial = path.with_name(path.name + ".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("triples.parquet", _parquet(result.triples))
            archive.writestr("names.parquet", _parquet(result.names))
            archive.writestr("phrases.npy", phrases.getvalue())
            archive.writestr("rest.json", json.dumps(rest))
        partial.replace(path)

    def read(self, path: Path) -> Extracted:
        try:
            with zipfile.ZipFile(path) as archive:
                rest = json.loads(archive.read("rest.json"))
                return Extracted(
                    pl.read_parquet(io.BytesIO(archive.read("triples.parquet"))),
                    pl.read_parquet(io.BytesIO(archive.read("names.parquet"))),
                    np.load(io.BytesIO(archive.read("phrases.npy")), allow_pickle=False),
                    _DROPS.validate_python(rest["dropped"]),
                    rest["documents"],
                )
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{path} cannot be read ({error}). Delete it and run again.") from None


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="lz4")
    return buffer.getvalue()


class JsonFiles(Generic[R]):
    """A dataclass of plain values, records and decimals."""

    suffix = ".json.gz"

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind

    def write(self, path: Path, result: R) -> None:
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(zlib.compress(TypeAdapter(self._kind).dump_json(result), _COMPRESSION, wbits=31))
        partial.replace(path)

    def read(self, path: Path) -> R:
        try:
            return TypeAdapter(self._kind).validate_json(zlib.decompress(path.read_bytes(), wbits=31))
        except (zlib.error, ValidationError, OSError) as error:
            raise InputError(f"{path} cannot be read ({str(error)[:200]}). Delete it and run again.") from None
