"""From documents to triples: which rules read which document, over shards of documents on several processes.

    documents/*.jsonl -> byte ranges of whole lines -> [rules] -> one table per shard -> concatenated in the order of the shards

A shard is cut by bytes, never by the number of workers, so the triples are the same whatever runs them. Memory holds the
tables (about 100 bytes a triple) and, in each worker, one document.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from stages.common.errors import InputError
from stages.common.file_ranges import FileRange, iter_range, line_ranges
from stages.common.records import Category, Document, Dropped
from stages.common.shards import ShardExecutor
from stages.synthesis.citation_triples import citation_triples, end_of_text, is_paper
from stages.synthesis.code_triples import code_triples
from stages.synthesis.entities import Entity, entity_of, is_filing
from stages.synthesis.filing_triples import filing_triples
from stages.synthesis.heading_triples import heading_triples
from stages.synthesis.named_entity_triples import NamedEntityReader
from stages.synthesis.opening_triples import opening_triples
from stages.synthesis.statement_triples import phrase_triples, statement_triples
from stages.synthesis.triples import TRIPLE_SCHEMA, TripleRows

log = logging.getLogger(__name__)

SHARD_BYTES = 2_000_000
_PROFILE_HEADINGS = ("\n### Country name", "\n### Land boundaries")


@dataclass
class Extracted:
    """What one shard, or the whole corpus, yields.

    phrases: hashes of the capitalised phrases of each document, one entry per document that has the phrase.
    names:   (document id, name, type) of whom each document is about.
    """

    triples: pl.DataFrame
    names: list[tuple[str, str, str]] = field(default_factory=list)
    phrases: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    dropped: list[Dropped] = field(default_factory=list)
    documents: int = 0


def extract(folder: Path, executor: ShardExecutor, named_entities: bool) -> Extracted:
    """Read every document file of ingest's `documents` folder. InputError if there is none."""
    shards = [shard for path in document_files(folder) for shard in line_ranges(path, SHARD_BYTES)]
    parts = list(executor.map(functools.partial(extract_shard, named_entities=named_entities), shards))
    total = Extracted(
        pl.concat([part.triples for part in parts]) if parts else pl.DataFrame(schema=TRIPLE_SCHEMA),
        [name for part in parts for name in part.names],
        np.concatenate([part.phrases for part in parts]) if parts else np.empty(0, dtype=np.uint64),
        [record for part in parts for record in part.dropped],
        sum(part.documents for part in parts),
    )
    log.info("%d documents, %d triples", total.documents, total.triples.height)
    return total


def document_files(folder: Path) -> list[Path]:
    """The files of ingest's `documents` folder. InputError if there is none."""
    paths = [folder / f"{category}.jsonl" for category in Category if category is not Category.DIALOGUES]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise InputError(f"{folder} holds no documents. Run the ingest stage first: `longfuse run --only ingest`.")
    return present


def extract_shard(shard: FileRange, named_entities: bool) -> Extracted:
    """The triples of the documents in a byte range."""
    rows = TripleRows()
    reader = NamedEntityReader() if named_entities else None
    total = Extracted(rows.table())
    hashes: list[npt.NDArray[np.uint64]] = []
    for document in iter_range(shard, Document):
        total.documents += 1
        read_document(document, rows, total, hashes, reader)
    total.triples = rows.table()
    if hashes:
        total.phrases = np.concatenate(hashes)
    return total


def read_document(
    document: Document,
    rows: TripleRows,
    total: Extracted,
    hashes: list[npt.NDArray[np.uint64]],
    reader: NamedEntityReader | None,
) -> None:
    """Add one document's triples, name and drops."""
    if document.format == "dialogue":
        return
    rows.begin()
    if document.format == "python":
        unreadable = code_triples(document, rows)
        total.names.append((document.id, document.title, "package"))
        if unreadable:
            total.dropped.append(_drop(document, "unreadable_code", f"{unreadable} files do not parse as Python"))
        _note_cut(document, rows, total)
        return
    entity = Entity(document.id, document.title, None) if is_paper(document) else entity_of(document)
    if entity is None:
        total.dropped.append(_drop(document, "unclear_entity", f"the title {document.title!r} names no entity"))
        return
    kind = kind_of(document)
    total.names.append((document.id, entity.name, kind))
    _read_text(document, entity, kind, rows, total.dropped)
    hashes.append(phrase_triples(document, entity.name, kind, rows, end_of_text(document)))
    if reader is not None:
        reader.read(document, entity.name, kind, rows)
    _note_cut(document, rows, total)


def _read_text(document: Document, entity: Entity, kind: str, rows: TripleRows, dropped: list[Dropped]) -> None:
    if kind == "filing":
        filing_triples(document, entity, rows, dropped)
    elif kind == "paper":
        citation_triples(document, entity.name, rows)
    else:
        heading_triples(document, entity.name, kind, rows)
        opening_triples(document, entity.name, kind, rows)
    statement_triples(document, entity.name, kind, rows, end_of_text(document))


def kind_of(document: Document) -> str:
    """filing, paper, country or document: what the question calls the document's subject."""
    if is_filing(document):
        return "filing"
    if is_paper(document):
        return "paper"
    return "country" if any(mark in document.text for mark in _PROFILE_HEADINGS) else "document"


def _note_cut(document: Document, rows: TripleRows, total: Extracted) -> None:
    if rows.cut:
        total.dropped.append(_drop(document, "too_many_triples", "only the first ones are kept"))


def _drop(document: Document, reason: str, detail: str) -> Dropped:
    return Dropped(reason=reason, stage="synthesize", detail=detail[:200], record={"document_id": document.id})


def phrases_of_one_document(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The sorted hashes that occur in one document only."""
    values, counts = np.unique(hashes, return_counts=True)
    alone: npt.NDArray[np.uint64] = values[counts == 1]
    return alone
