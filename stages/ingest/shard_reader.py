"""The map step of ingest: a shard of units in, what is known of their documents out; texts stay in the cache of parsed units.

    load -> parse (bounded in time and memory) -> clean -> measure -> cache -> 13-grams shared with benchmarks

Runs in worker processes. Whatever a file does, the others of its shard are read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.common.tokens import TokenCounter
from stages.ingest.cache import CachedUnit, Measured, ParsedCache, content_key
from stages.ingest.counting import count_tokens
from stages.ingest.decontaminate import hits_of
from stages.ingest.discover import Unit
from stages.ingest.language import language_of
from stages.ingest.licences import licence_in_head
from stages.ingest.limits import limit_memory, limited
from stages.ingest.loading import load
from stages.ingest.near_duplicates import Signature, signature_of
from stages.ingest.parsed import Note, Parsed, ParsedUnit, Problem
from stages.ingest.quality import MAX_WORD_CHARACTERS, measure, prose_of
from stages.ingest.readers import parse
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.table_spans import find_tables
from stages.ingest.words import Hashes, WordHasher, words_of


@dataclass(frozen=True)
class ReadSettings:
    """What the readers need to know. max_bytes bounds a file and also the sum of a repository's files."""

    corpus: Path
    tokenizer: Path
    cache_dir: Path
    version: str
    max_bytes: int
    max_seconds: float
    benchmark_grams: Hashes


@dataclass(frozen=True)
class Found:
    """What the choice of documents needs to know of one: everything but the text and its tables."""

    part: int | None
    title: str
    format: str
    measured: Measured
    signature: Signature
    hits: Hashes


@dataclass
class UnitResult:
    """Of one unit. `key` names its entry in the cache; empty if nothing could be loaded."""

    key: str = ""
    reused: bool = False
    source_bytes: int = 0
    documents: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def read_shard(units: Sequence[Unit], settings: ReadSettings) -> list[UnitResult]:
    """One result per unit, in order."""
    limit_memory()
    return [_read_unit(unit, settings) for unit in units]


def crashed(units: Sequence[Unit], why: str) -> list[UnitResult]:
    """What stands for a unit whose reader died."""
    return [UnitResult(problems=[Problem(path=unit.source, reason=DropReason.CRASHED, detail=why)]) for unit in units]


def _read_unit(unit: Unit, settings: ReadSettings) -> UnitResult:
    result = UnitResult()
    try:
        with limited(settings.max_seconds):
            contents = _load(unit, settings, result)
            if contents:
                result.source_bytes = sum(map(len, contents.values()))
                cached = _parse(unit, contents, settings, result)
                result.documents = [
                    _found(document, measured, settings)
                    for document, measured in zip(cached.unit.documents, cached.measured, strict=True)
                ]
                result.problems += cached.unit.problems
                result.notes += cached.unit.notes
    except UnusableError as error:
        result.problems.append(Problem(path=unit.source, reason=error.reason, detail=error.detail))
        result.documents = []
    return result


def _load(unit: Unit, settings: ReadSettings, result: UnitResult) -> dict[str, bytes]:
    """Bytes of the members that can be loaded, by path. UnusableError if the unit as a whole cannot be used."""
    contents: dict[str, bytes] = {}
    size = 0
    for path in unit.members:
        try:
            contents[path] = load(settings.corpus / path, settings.max_bytes)
        except UnusableError as error:
            result.problems.append(Problem(path=path, reason=error.reason, detail=error.detail))
            continue
        size += len(contents[path])
        if size > settings.max_bytes:  # only a repository gets here: each file is within the limit
            raise UnusableError(
                DropReason.TOO_LARGE,
                f"a repository of {len(unit.members)} files with more than {settings.max_bytes / 1e6:g} MB "
                "(ingest.max_file_mb); put its parts into folders of their own",
            )
    return contents


def _parse(unit: Unit, contents: dict[str, bytes], settings: ReadSettings, result: UnitResult) -> CachedUnit:
    cache = ParsedCache(settings.cache_dir)
    result.key = content_key(settings.version, unit.id, unit.source, contents)
    known = cache.get(result.key)
    if known is not None:
        result.reused = True
        return known
    parsed_unit = parse(unit, contents, settings.max_bytes)
    kept, measured, problems = [], [], list(parsed_unit.problems)
    for document in parsed_unit.documents:
        try:
            measured.append(_measure(document, _counter(settings.tokenizer)))
            kept.append(document)
        except UnusableError as error:
            path = unit.source if document.part is None else f"{unit.source}:{document.part}"
            problems.append(Problem(path=path, reason=error.reason, detail=error.detail))
    value = CachedUnit(unit=ParsedUnit(documents=kept, problems=problems, notes=parsed_unit.notes), measured=measured)
    cache.put(result.key, value)
    return value


@functools.lru_cache(maxsize=1)
def _counter(tokenizer: Path) -> TokenCounter:
    return TokenCounter(tokenizer)


@functools.lru_cache(maxsize=1)
def _hasher() -> WordHasher:
    return WordHasher()


def _measure(document: Parsed, counter: TokenCounter) -> Measured:
    """Raises UnusableError (unbroken)."""
    text = document.text
    tables = [] if document.format in ("python", "dialogue") else find_tables(text)
    prose = prose_of(text, tables)
    words = _hasher()(words_of(text))
    quality = measure(text, prose, _hasher()(words_of(prose)) if tables else words)
    if quality.longest_word > MAX_WORD_CHARACTERS:  # before the tokenizer, which is slow on such
        raise UnusableError(
            DropReason.UNBROKEN, f"{quality.longest_word:,} characters without white space: data rather than text"
        )
    return Measured(
        tokens=count_tokens(counter, text),
        language=language_of(prose, document.format == "python"),
        licence=licence_in_head(text),
        tables=tables,
        quality=quality,
        text_key=hashlib.sha256(" ".join(text.split()).encode()).hexdigest(),
        signature=signature_of(words).astype("<u4").tobytes().hex(),
    )


def _found(document: Parsed, measured: Measured, settings: ReadSettings) -> Found:
    hits = np.empty(0, dtype=np.uint64)
    if len(settings.benchmark_grams):
        hits = hits_of(_hasher()(words_of(document.text)), settings.benchmark_grams)
    return Found(
        part=document.part,
        title=document.title,
        format=document.format,
        measured=measured.model_copy(update={"tables": []}),  # the writer reads them back with the text
        signature=np.frombuffer(bytes.fromhex(measured.signature), dtype="<u4").astype(np.uint32),
        hits=hits,
    )
