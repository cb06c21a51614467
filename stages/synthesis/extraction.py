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
from stages.synthesis.extracted import NAME_SCHEMA, Extracted, joined
from stages.synthesis.filing_triples import filing_triples
from stages.synthesis.heading_triples import heading_triples
from stages.synthesis.named_entity_triples import NamedEntityReader
from stages.synthesis.opening_triples import opening_triples
from stages.synthesis.shard_results import ExtractedFiles, mapped, shard_key
from stages.synthesis.statement_triples import phrase_hashes, phrase_triples, statement_triples
from stages.synthesis.triples import TripleRows

log = logging.getLogger(__name__)

SHARD_BYTES = 2_000_000
_PROFILE_HEADINGS = ("\n### Country name", "\n### Land boundaries")


def extract(folder: Path, executor: ShardExecutor, named_entities: bool, state_dir: Path | None = None) -> Extracted:
    """Read every document file of ingest's `documents` folder. InputError if there is none.

    state_dir: where finished shards are kept, so that an interrupted run reads only the others.
    """
    shards = (shard for path in document_files(folder) for shard in line_ranges(path, SHARD_BYTES))
    total = joined(
        list(
            mapped(
                executor,
                functools.partial(extract_shard, named_entities=named_entities),
                shards,
                None if state_dir is None else state_dir / "triples",
                key=functools.partial(shard_key, what=f"triples 1 {named_entities}"),
                results=ExtractedFiles(),
            )
        )
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
    found = _Found(reader=_named_entities() if named_entities else None)
    for document in iter_range(shard, Document):
        found.documents += 1
        read_document(document, found)
    phrases = np.concatenate(found.hashes) if found.hashes else np.empty(0, dtype=np.uint64)
    names = pl.DataFrame(found.names, schema=NAME_SCHEMA, orient="row")
    return Extracted(found.rows.table(), names, phrases, found.dropped, found.documents)


@functools.lru_cache(maxsize=1)
def _named_entities() -> NamedEntityReader:
    """Loaded once per worker process."""
    return NamedEntityReader()


@dataclass
class _Found:
    """What the documents of one shard have given so far."""

    reader: NamedEntityReader | None
    rows: TripleRows = field(default_factory=TripleRows)
    names: list[tuple[str, str, str, int, int]] = field(default_factory=list)
    hashes: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    documents: int = 0


def read_document(document: Document, found: _Found) -> None:
    """Add one document's triples, name and drops."""
    if document.format == "dialogue":
        return
    rows = found.rows
    rows.begin()
    if document.format == "python":
        unreadable = code_triples(document, rows)
        found.names.append((document.id, document.title, "package", *name_span(document, document.title)))
        if unreadable:
            found.dropped.append(_drop(document, "unreadable_code", f"{unreadable} files do not parse as Python"))
        found.hashes.append(phrase_hashes(document))
        _note_cut(document, found)
        return
    entity = Entity(document.id, document.title, None) if is_paper(document) else entity_of(document)
    if entity is None:
        found.dropped.append(_drop(document, "unclear_entity", f"the title {document.title!r} names no entity"))
        found.hashes.append(phrase_hashes(document))
        return
    kind = kind_of(document)
    found.names.append((document.id, entity.name, kind, *name_span(document, entity.name)))
    _read_text(document, entity, kind, rows, found.dropped)
    found.hashes.append(phrase_triples(document, entity.name, kind, rows, end_of_text(document)))
    if found.reader is not None:
        found.reader.read(document, entity.name, kind, rows)
    _note_cut(document, found)


def name_span(document: Document, name: str) -> tuple[int, int]:
    """Where a document's text first says the name of its subject; (0, 0) if only the title does."""
    start = document.text.find(name)
    return (start, start + len(name)) if start >= 0 else (0, 0)


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


def _note_cut(document: Document, found: _Found) -> None:
    if found.rows.cut:
        found.dropped.append(_drop(document, "too_many_triples", "only the first ones are kept"))


def _drop(document: Document, reason: str, detail: str) -> Dropped:
    return Dropped(reason=reason, stage="synthesize", detail=detail[:200], record={"document_id": document.id})
