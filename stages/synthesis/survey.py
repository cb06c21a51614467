"""One look at every document of a corpus: all that assembly asks of documents it has not opened.

A map over shards of the document files (pure, resumable, any number of workers), then the shards' tables as arrays on disk that
every worker maps into its memory: about two bytes per token of corpus, shared and paged in as needed.

Per document: id, title, category, source, characters; tokens per line segment (line_tokens.py); places of attributes
(attributes.py); terms (terms.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.common.file_ranges import FileRange, iter_range, line_ranges
from stages.common.records import Document
from stages.common.tokens import TokenCounter
from stages.synthesis.attributes import attributes_of
from stages.synthesis.line_tokens import LineCounter
from stages.synthesis.terms import terms_of

if TYPE_CHECKING:
    import pyarrow as pa

_SHARD_BYTES = 4_000_000

# Columns with one array per document, and the type of its values.
LISTS: dict[str, str] = {
    "starts": "int32",
    "text_ends": "int32",
    "before": "int64",
    "last_tokens": "int32",
    "keys": "uint64",
    "key_starts": "int32",
    "key_ends": "int32",
    "key_is_row": "bool",
    "terms": "int32",
    "term_counts": "int32",
}


def document_shards(paths: Iterable[Path]) -> list[FileRange]:
    """Shards of the document files; empty files give none. InputError if one is missing."""
    return [piece for path in paths for piece in line_ranges(path, _SHARD_BYTES)]


def shard_key(piece: FileRange, tokenizer_json: Path) -> str:
    """What a shard's survey depends on."""
    return f"survey 1 {tokenizer_json} {piece.path} {piece.start} {piece.end}"


def survey_shard(piece: FileRange, tokenizer_json: Path) -> pa.Table:
    """The map step: one row per document."""
    import pyarrow as pa

    counter = _counter(tokenizer_json)
    return pa.Table.from_pylist(
        [survey_document(document, counter) for document in iter_range(piece, Document)], schema=_schema()
    )


@functools.lru_cache(maxsize=1)
def _counter(tokenizer_json: Path) -> LineCounter:
    """Opened once per worker process."""
    return LineCounter(TokenCounter(tokenizer_json))


def survey_document(document: Document, counter: LineCounter) -> dict[str, Any]:
    """One document's row."""
    lines = counter.segments(document.text)
    found = attributes_of(document)
    terms, times = terms_of(document.text)
    return {
        "id": document.id,
        "title": document.title,
        "category": str(document.category),
        "source": document.source,
        "characters": len(document.text),
        "opening_tokens": counter.opening(document.title),
        "starts": lines.starts,
        "text_ends": lines.text_ends,
        "before": lines.before,
        "last_tokens": lines.last_tokens,
        "keys": np.array([attribute.key for attribute in found], dtype=np.uint64),
        "key_starts": np.array([attribute.start for attribute in found], dtype=np.int32),
        "key_ends": np.array([attribute.end for attribute in found], dtype=np.int32),
        "key_is_row": np.array([attribute.is_row for attribute in found], dtype=bool),
        "terms": terms,
        "term_counts": times,
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", "title", "category", "source")]
    numbers = [("characters", pa.int64()), ("opening_tokens", pa.int32())]
    kinds = {"int32": pa.int32(), "int64": pa.int64(), "uint64": pa.uint64(), "bool": pa.bool_()}
    lists = [(name, pa.large_list(kinds[kind])) for name, kind in LISTS.items()]
    return pa.schema([*texts, *numbers, *lists])


def write_survey(tables: Iterable[pa.Table], folder: Path) -> None:
    """All shards' rows, in order, as flat arrays: `<column>.npy` and `<column>.offsets.npy`, `documents.jsonl`."""
    from stages.common.storage import write_jsonl

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    offsets: dict[str, list[int]] = {name: [0] for name in LISTS}
    files = {name: (folder / f"{name}.bin").open("wb") for name in LISTS}
    try:
        for table in tables:
            rows += table.select(["id", "title", "category", "source", "characters", "opening_tokens"]).to_pylist()
            for name, kind in LISTS.items():
                for chunk in table.column(name).chunks:
                    start = offsets[name][-1]
                    ends = np.asarray(chunk.offsets)
                    offsets[name] += (start + ends[1:] - ends[0]).tolist()
                    values = np.asarray(chunk.flatten().to_numpy(zero_copy_only=False), dtype=kind)
                    files[name].write(np.ascontiguousarray(values).tobytes())
    finally:
        for file in files.values():
            file.close()
    for name, found in offsets.items():
        np.save(folder / f"{name}.offsets.npy", np.array(found, dtype=np.int64))
    write_jsonl(folder / "documents.jsonl", rows)


class Survey:
    """The arrays of a survey, mapped from disk."""

    def __init__(self, folder: Path) -> None:
        from stages.common.storage import iter_json_lines

        rows = list(iter_json_lines(folder / "documents.jsonl"))
        self.ids: Sequence[str] = [row["id"] for row in rows]
        self.titles: Sequence[str] = [row["title"] for row in rows]
        self.categories: Sequence[str] = [row["category"] for row in rows]
        self.sources: Sequence[str] = [row["source"] for row in rows]
        self.characters: Sequence[int] = [row["characters"] for row in rows]
        self.opening_tokens: Sequence[int] = [row["opening_tokens"] for row in rows]
        self.number_of: dict[str, int] = {document_id: number for number, document_id in enumerate(self.ids)}
        self._values: dict[str, Any] = {}
        self._offsets: dict[str, Any] = {}
        for name, kind in LISTS.items():
            path = folder / f"{name}.bin"
            empty = path.stat().st_size == 0
            self._values[name] = np.zeros(0, dtype=kind) if empty else np.memmap(path, dtype=kind, mode="r")
            self._offsets[name] = np.load(folder / f"{name}.offsets.npy")

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str, document: int) -> Any:
        """One document's values of a list column."""
        offsets = self._offsets[name]
        return self._values[name][offsets[document] : offsets[document + 1]]

    def all_of(self, name: str) -> Any:
        """All documents' values of a list column, one after the other."""
        return self._values[name]

    def offsets_of(self, name: str) -> Any:
        """Where each document's values begin; one more than there are documents."""
        return self._offsets[name]
