"""A map over shards that keeps each finished shard's result in a file, so that an interrupted run resumes at the shard.

    kept = JsonLinesResults(Triple)
    for triples in resumable_map(executor, extract, shards, state_dir / "triples", key=key_of, results=kept): ...

A file's name is the hash of what its result depends on, as `key` tells; it is written by the worker beside its name and renamed,
so one that exists is whole. Results of other keys are deleted at the end.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pydantic import BaseModel

from stages.common.errors import InputError
from stages.common.shards import ShardExecutor
from stages.common.storage import read_records, write_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

S = TypeVar("S")
R = TypeVar("R")
Row = TypeVar("Row", bound=BaseModel)


class ResultFiles(Protocol[R]):
    """How a shard's result is written and read back. `read` raises InputError for a damaged file."""

    suffix: str

    def write(self, path: Path, result: R) -> None: ...

    def read(self, path: Path) -> R: ...


class JsonLinesResults(Generic[Row]):
    """A result is a list of records: one line each."""

    suffix = ".jsonl"

    def __init__(self, record_type: type[Row]) -> None:
        self._record_type = record_type

    def write(self, path: Path, result: Sequence[Row]) -> None:
        write_jsonl(path, result)

    def read(self, path: Path) -> Sequence[Row]:
        return read_records(path, self._record_type)


class ParquetResults:
    """A result is an Arrow table (a Polars frame converts without a copy)."""

    suffix = ".parquet"

    def write(self, path: Path, result: pa.Table) -> None:
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        pq.write_table(result, partial)
        partial.replace(path)

    def read(self, path: Path) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}). Delete it and run again.") from None


def resumable_map(
    executor: ShardExecutor,
    function: Callable[[S], R],
    shards: Iterable[S],
    state_dir: Path,
    key: Callable[[S], str],
    results: ResultFiles[R],
) -> Iterator[R]:
    """`function` of each shard, in order; a shard whose file is in `state_dir` is not computed again.

    key(shard): a text that names all that the result depends on: the shard's content, the parameters, the version of the code.
    `key` and `results` run in the workers, so they must be importable by name, too.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    step = functools.partial(_one, function=function, state_dir=state_dir, key=key, results=results)
    used = set()
    for name in executor.map(step, shards):
        used.add(name)
        yield results.read(state_dir / name)
    for path in state_dir.iterdir():
        if path.name not in used:
            path.unlink()


def _one(
    shard: S, function: Callable[[S], R], state_dir: Path, key: Callable[[S], str], results: ResultFiles[R]
) -> str:
    """Make sure that the shard's result is in its file; the file's name."""
    path = state_dir / (hashlib.sha256(key(shard).encode()).hexdigest() + results.suffix)
    if not _is_whole(path, results):
        results.write(path, function(shard))
    return path.name


def _is_whole(path: Path, results: ResultFiles[R]) -> bool:
    if not path.is_file():
        return False
    try:
        results.read(path)
    except (InputError, UnicodeDecodeError):  # damaged after it was written: made again
        return False
    return True
