"""The ingest stage: a folder of documents -> Document records, one file per category.

    discover -> load -> parse and clean (cached by content) -> too short? -> duplicate? -> <category>.jsonl

Paper section 3.1 filters its documents by rules and an LLM judge down to 82,175; here rules only, and every drop is kept with
its reason. Documents stream through in id order: memory holds one unit, the hashes of the texts and the list of drops.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Category, Document, Dropped
from stages.common.storage import write_json, write_jsonl
from stages.ingest.config import IngestStage
from stages.ingest.dedup import Deduplicator
from stages.ingest.discover import Discovery, Unit, discover, printable_path
from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.unit_reader import UnitReader

log = logging.getLogger(__name__)


def run(config: IngestStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Read the corpus; write documents/, dialogues/, dropped.jsonl and summary.json; return the counts.

    Raises InputError if the corpus folder is missing or empty, NotEnoughDataError if nothing in it can be used.
    """
    name = config.ingest.sources
    found = _discover(inputs["corpus"], name)
    # Beside the fingerprints' folders, so that a run with other parameters still knows the documents.
    cache_dir = state_dir.parent / "parsed"
    reader = UnitReader(inputs["corpus"], int(config.ingest.max_file_mb * 1e6), inputs["tokenizer"], cache_dir)
    tally = _Tally()
    for path, reason, detail in found.dropped:
        tally.drop(path, reason, detail)
    check = _Checks(config.ingest.min_characters)
    # Ids begin with the category, so going through the categories by name is going through the ids in order.
    for category in sorted(Category):
        units = (unit for unit in found.units if unit.category is category)
        written = write_jsonl(out_dir / _file_of(category), _documents(units, reader, check, tally))
        log.info("%s: %d documents", category.value, written)
    if not tally.formats:
        raise NotEnoughDataError(_nothing_usable(name, found, tally))
    reader.forget_unused()
    log.info("parsed %d files or packages, reused %d", reader.parsed, reader.reused)
    emit(0, {"perf/units_parsed": reader.parsed, "perf/units_reused": reader.reused})
    return _write_summary(out_dir, found, tally)


def _file_of(category: Category) -> str:
    folder = "dialogues" if category is Category.DIALOGUES else "documents"
    return f"{folder}/{category.value}.jsonl"


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


class _Tally:
    """Totals per category and format, and every drop."""

    def __init__(self) -> None:
        self.drops: list[Dropped] = []
        self.formats: Counter[str] = Counter()
        self.categories = {c.value: {"documents": 0, "characters": 0, "tokens": 0} for c in Category}

    def keep(self, document: Document) -> None:
        self.formats[document.format] += 1
        totals = self.categories[document.category.value]
        totals["documents"] += 1
        totals["characters"] += len(document.text)
        totals["tokens"] += document.tokens

    def drop(self, path: str, reason: DropReason, detail: str) -> None:
        self.drops.append(
            Dropped(reason=reason.value, stage="ingest", detail=detail, record={"path": printable_path(path)})
        )

    def drops_by_reason(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))


class _Checks:
    """What a document must pass: long enough, not seen before, an id of its own."""

    def __init__(self, min_characters: int) -> None:
        self._min_characters = min_characters
        self._deduplicator = Deduplicator()
        self._ids: set[str] = set()

    def __call__(self, document: Document) -> None:
        """Raises UnusableError (too_short, duplicate, duplicate_id)."""
        if len(document.text) < self._min_characters:
            raise UnusableError(
                DropReason.TOO_SHORT,
                f"{len(document.text)} characters, fewer than {self._min_characters} (ingest.min_characters)",
            )
        original = self._deduplicator.original_of(document.id, document.text)
        if original is not None:
            raise UnusableError(DropReason.DUPLICATE, f"the same text as {original}")
        if document.id in self._ids:
            raise UnusableError(DropReason.DUPLICATE_ID, f"another document has the id {document.id}; rename the file")
        self._ids.add(document.id)


def _documents(units: Iterable[Unit], reader: UnitReader, check: _Checks, tally: _Tally) -> Iterator[Document]:
    for unit in units:
        documents, problems = reader.read(unit)
        for problem in problems:
            tally.drop(problem.path, problem.reason, problem.detail)
        for parsed, tokens in documents:
            document = Document(
                id=unit.id if parsed.part is None else f"{unit.id}#{parsed.part:06d}",
                category=unit.category,
                title=parsed.title,
                text=parsed.text,
                source=unit.source,
                format=parsed.format,
                tokens=tokens,
            )
            try:
                check(document)
            except UnusableError as error:
                where = unit.source if parsed.part is None else f"{unit.source}:{parsed.part}"
                tally.drop(where, error.reason, error.detail)
                continue
            tally.keep(document)
            yield document


def _nothing_usable(name: str, found: Discovery, tally: _Tally) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in tally.drops_by_reason().items())
    examples = "; ".join(f"{drop.record['path']}: {drop.detail}" for drop in tally.drops[:3])
    return (
        f"no document in ingest.sources ({name!r}) can be used: {found.files} files were looked at, "
        f"dropped: {reasons}. For example {examples}. "
        "Readable are UTF-8 .txt, .md, .html, .csv, .tex, .py, and .json or .jsonl dialogues."
    )


def _write_summary(out_dir: Path, found: Discovery, tally: _Tally) -> dict[str, int]:
    counts = {
        "files": found.files,
        "skipped": found.skipped,
        "documents": tally.formats.total(),
        "dropped": len(tally.drops),
        "tokens": sum(totals["tokens"] for totals in tally.categories.values()),
    }
    write_jsonl(out_dir / "dropped.jsonl", tally.drops)
    write_json(
        out_dir / "summary.json",
        {
            "counts": counts,
            "dropped": tally.drops_by_reason(),
            "categories": tally.categories,
            "formats": dict(tally.formats),
        },
    )
    return counts
