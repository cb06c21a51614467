"""The ingest stage: a folder of documents -> Document records, one file per category.

    discover -> read (shards on worker processes; parsed texts cached by content) -> choose -> <category>.jsonl

Paper section 3.1 filters its documents by rules and an LLM judge down to 82,175; here rules only, and every drop is kept with
its reason. This process holds the measures of the documents (a kilobyte each), never more than one unit's texts.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Category, Document
from stages.common.shards import ProcessExecutor, SerialExecutor, ShardExecutor, groups_by_weight
from stages.common.storage import write_jsonl
from stages.ingest.cache import CachedUnit, ParsedCache, parser_version
from stages.ingest.choose import Candidate, choose
from stages.ingest.config import IngestStage
from stages.ingest.decontaminate import load_benchmarks
from stages.ingest.discover import CATEGORIES, Discovery, Unit, discover, suffix_of
from stages.ingest.licences import Licences
from stages.ingest.readers import RISKY_SUFFIXES, check_format
from stages.ingest.reasons import UnusableError
from stages.ingest.shard_reader import Found, ReadSettings, UnitResult, crashed, read_shard
from stages.ingest.tally import Tally

log = logging.getLogger(__name__)

_SHARD_BYTES = 1 << 20
_SHARD_UNITS_WEIGHT = 4096  # bytes that opening a file counts as, so that a shard has at most 256 of them
_SMALL_CORPUS_BYTES = 1 << 19  # below, and without risky formats, starting processes costs more than reading


def run(
    config: IngestStage,
    inputs: Mapping[str, Path],
    out_dir: Path,
    state_dir: Path,
    emit: Emit,
    executor: ShardExecutor | None = None,
) -> dict[str, int]:
    """Read the corpus; write documents/, dialogues/, dropped.jsonl, notes.jsonl, boilerplate_grams.json and
    summary.json; return the counts.

    executor: where the shards are read; this machine's cores if None. The output does not depend on it.

    Raises InputError if the corpus folder is missing or empty, NotEnoughDataError if nothing in it can be used.
    """
    started = time.monotonic()
    name = config.ingest.sources
    corpus = inputs["corpus"]
    found = _discover(corpus, name)
    benchmarks = load_benchmarks(inputs["benchmarks"])
    tally = Tally(benchmarks)
    for path, reason, detail in found.dropped:
        tally.drop(path, reason, detail)
    # Beside the fingerprints' folders, so that a run with other parameters still knows the documents.
    cache_dir = state_dir.parent / "parsed"
    cache = ParsedCache(cache_dir)
    settings = ReadSettings(
        corpus=corpus,
        tokenizer=inputs["tokenizer"],
        cache_dir=cache_dir,
        version=_version(inputs["tokenizer"]),
        max_bytes=int(config.ingest.max_file_mb * 1e6),
        max_seconds=config.ingest.max_file_seconds,
        benchmark_grams=benchmarks.grams,
    )
    candidates: list[Candidate] = []
    keys: set[str] = set()
    parsed = reused = source_bytes = 0
    for unit, result in _read(_readable(found.units, tally), settings, executor):
        keys.add(result.key)
        parsed += bool(result.key) and not result.reused
        reused += result.reused
        source_bytes += result.source_bytes
        tally.add(result)
        candidates += _candidates(unit, result)
    read_seconds = time.monotonic() - started
    log.info("parsed %d files or repositories, reused %d, in %.1f s", parsed, reused, read_seconds)
    choice = choose(candidates, config.ingest, benchmarks)
    kept, drops = choice.kept, choice.drops
    choose_seconds = time.monotonic() - started - read_seconds
    log.info("kept %d of %d documents", len(kept), len(candidates))
    if not kept:
        for drop in drops:
            tally.drop(drop.candidate.where, drop.reason, drop.detail)
        raise NotEnoughDataError(_nothing_usable(name, found, tally))
    tally.add_drops(drops, cache)
    _write_documents(out_dir, kept, cache, Licences(corpus, found.notices), tally)
    counts = tally.write(out_dir, found, choice.boilerplate)
    cache.prune(keys)
    megabytes = source_bytes / 1e6
    write_seconds = time.monotonic() - started - read_seconds - choose_seconds
    emit(
        0,
        {
            "perf/units_parsed": parsed,
            "perf/units_reused": reused,
            "perf/source_mb": megabytes,
            "perf/read_mb_per_s": megabytes / read_seconds,
            "time/read_s": read_seconds,
            "time/choose_s": choose_seconds,
            "time/write_s": write_seconds,
        },
    )
    return counts


def _version(tokenizer: Path) -> str:
    if not tokenizer.is_file():
        raise InputError(
            f"{tokenizer} does not exist. Run the base_model stage first: `longfuse run --only base_model`."
        )
    return parser_version(tokenizer)


def _discover(corpus: Path, name: str) -> Discovery:
    remedy = "Put documents there, or name another folder with `longfuse run --corpus DIR`."
    if not corpus.exists():
        raise InputError(f"ingest.sources is {name!r}, which does not exist. {remedy}")
    if not corpus.is_dir():
        raise InputError(f"ingest.sources is {name!r}, which is a file, not a folder. {remedy}")
    found = discover(corpus)
    if not found.units and not found.dropped:
        raise InputError(f"ingest.sources is {name!r}, which holds no documents. {remedy}")
    return found


def _readable(units: Iterable[Unit], tally: Tally) -> list[Unit]:
    """Units of a known format; the others are dropped unread."""
    readable = []
    for unit in units:
        try:
            check_format(unit)
            readable.append(unit)
        except UnusableError as error:
            tally.drop(unit.source, error.reason, error.detail)
    return readable


def _read(
    units: list[Unit], settings: ReadSettings, executor: ShardExecutor | None
) -> Iterator[tuple[Unit, UnitResult]]:
    """Each unit with what came out of it, in order."""
    sizes = {unit.id: _size(settings.corpus, unit) for unit in units}
    if executor is None:
        risky = any(_is_risky(unit) for unit in units)
        small = not risky and sum(sizes.values()) < _SMALL_CORPUS_BYTES
        executor = SerialExecutor() if small else ProcessExecutor()

    def weight(unit: Unit) -> int:
        return _SHARD_BYTES if _is_risky(unit) else sizes[unit.id] + _SHARD_UNITS_WEIGHT

    shards = list(groups_by_weight(units, weight, _SHARD_BYTES))
    step = functools.partial(read_shard, settings=settings)
    for shard, results in zip(shards, executor.map(step, shards, failed=_failed), strict=True):
        if results or not shard:
            yield from zip(shard, results, strict=True)
            continue
        # One of several units ended its process: each again, so that the others are not lost.
        alone = [[unit] for unit in shard]
        for unit, (result,) in zip(shard, executor.map(step, alone, failed=crashed), strict=True):
            yield unit, result


def _failed(shard: list[Unit], why: str) -> list[UnitResult]:
    return crashed(shard, why) if len(shard) == 1 else []


def _is_risky(unit: Unit) -> bool:
    return not unit.is_tree and (suffix_of(unit.source) in RISKY_SUFFIXES or unit.source.lower().endswith(".gz"))


def _size(corpus: Path, unit: Unit) -> int:
    size = 0
    for member in unit.members:
        try:
            size += (corpus / member).stat().st_size
        except OSError:  # gone since the walk; the reader says so
            continue
    return size


def _candidates(unit: Unit, result: UnitResult) -> Iterator[Candidate]:
    for place, found in enumerate(result.documents):
        category, stem = _category_of(unit, found)
        yield Candidate(
            id=stem if found.part is None else f"{stem}#{found.part:06d}",
            category=category,
            where=unit.source if found.part is None else f"{unit.source}:{found.part}",
            source=unit.source,
            key=result.key,
            place=place,
            found=found,
        )


def _category_of(unit: Unit, found: Found) -> tuple[Category, str]:
    """(category, id without part). No category folder: what was found inside decides, not the suffix."""
    if unit.source.partition("/")[0] in CATEGORIES and "/" in unit.source:
        return unit.category, unit.id
    by_format = {"dialogue": Category.DIALOGUES, "python": Category.CODE}
    category = by_format.get(found.format, Category.GENERAL)
    return category, f"{category.value}/{unit.id.partition('/')[2]}"


def _write_documents(
    out_dir: Path, kept: list[Candidate], cache: ParsedCache, licences: Licences, tally: Tally
) -> None:
    for category in sorted(Category):
        folder = "dialogues" if category is Category.DIALOGUES else "documents"
        chosen = [candidate for candidate in kept if candidate.category is category]
        written = write_jsonl(out_dir / folder / f"{category.value}.jsonl", _documents(chosen, cache, licences, tally))
        log.info("%s: %d documents", category.value, written)


def _documents(chosen: Iterable[Candidate], cache: ParsedCache, licences: Licences, tally: Tally) -> Iterator[Document]:
    key = ""
    unit: CachedUnit | None = None
    for candidate in chosen:
        if candidate.key != key:
            key, unit = candidate.key, cache.get(candidate.key)
        if unit is None:
            raise InputError(f"the cache of parsed documents lost {candidate.source} during the run. Run again.")
        parsed, measured = unit.unit.documents[candidate.place], unit.measured[candidate.place]
        document = Document(
            id=candidate.id,
            category=candidate.category,
            title=parsed.title,
            text=parsed.text,
            source=candidate.source,
            format=parsed.format,
            tokens=measured.tokens,
            language=measured.language,
            licence=measured.licence or licences.of(candidate.source),
            tables=measured.tables,
            files=parsed.files,
        )
        tally.keep(document)
        yield document


def _nothing_usable(name: str, found: Discovery, tally: Tally) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in tally.drops_by_reason().items())
    examples = "; ".join(f"{drop.record['path']}: {drop.detail}" for drop in tally.drops[:3])
    return (
        f"no document in ingest.sources ({name!r}) can be used: {found.files} files were looked at, "
        f"dropped: {reasons}. For example {examples}. Readable are .txt, .md, .html, .pdf, .tex, .csv, .xlsx, .parquet, .py, "
        "and .json or .jsonl dialogues."
    )
