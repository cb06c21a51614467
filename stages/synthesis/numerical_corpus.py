"""All figures of a corpus: what the numerical and the multiple-choice questions draw from.

    documents -> shards -> (heading facts, tables) -> figures that name one number each -> corpus table

Ambiguity is settled within each document: a row and column that occur twice with different numbers name nothing; a
measure stands for a year only if all tables of the document agree on it.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path

from stages.common.errors import InputError
from stages.common.file_ranges import FileRange, iter_range, line_ranges
from stages.common.records import Category, Document, Dropped
from stages.common.shards import ShardExecutor
from stages.synthesis.entities import entity_of
from stages.synthesis.facts import Fact, heading_facts, with_evidence
from stages.synthesis.numerical_figures import (
    Figure,
    heading_figure,
    measure_of,
    rows_not_told_apart,
    says_something,
    table_figures,
)
from stages.synthesis.shard_results import JsonFiles, mapped, shard_key
from stages.synthesis.tables import read_tables

log = logging.getLogger(__name__)

MAX_FIGURES_PER_DOCUMENT = 6000
_SHARD_BYTES = 4 << 20
# Python files and dialogues have no headings or tables that state facts.
_FORMATS_WITHOUT_FACTS = ("python", "dialogue")


@dataclass(frozen=True)
class FigureCorpus:
    """Figures and named values of all documents, in file order; `Figure.key` is unique.

    names: values under headings that are no numbers ("Algiers").
    """

    documents: int
    figures: list[Figure]
    names: list[Fact]
    dropped: list[Dropped]


@dataclass(frozen=True)
class _Found:
    documents: int
    entities: list[tuple[str, str]]
    figures: list[Figure]
    names: list[Fact]
    dropped: list[Dropped]


def read_figures(folder: Path, executor: ShardExecutor, state_dir: Path | None = None) -> FigureCorpus:
    """Read every category file in `folder`. InputError if there is none.

    state_dir: where finished shards are kept, so that an interrupted run reads only the others.
    """
    paths = [folder / f"{category}.jsonl" for category in Category if category is not Category.DIALOGUES]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise InputError(f"{folder} holds no documents. Run the ingest stage first: `longfuse run --only ingest`.")
    shards = (piece for path in present for piece in line_ranges(path, _SHARD_BYTES))
    documents = 0
    entities: list[tuple[str, str]] = []
    figures: list[Figure] = []
    names: list[Fact] = []
    dropped: list[Dropped] = []
    kept = None if state_dir is None else state_dir / "figures"
    key = functools.partial(shard_key, what="figures 1")
    for found in mapped(executor, _read_shard, shards, kept, key, JsonFiles(_Found)):
        documents += found.documents
        entities += found.entities
        figures += found.figures
        names += found.names
        dropped += found.dropped
    shared = _shared_names(entities, dropped)
    log.info("%d documents, %d figures", documents, len(figures))
    return FigureCorpus(
        documents,
        [figure for figure in figures if figure.document_id not in shared],
        [fact for fact in names if fact.document_id not in shared],
        dropped,
    )


def _read_shard(piece: FileRange) -> _Found:
    """The figures of one shard; a pure function of its bytes."""
    found = _Found(0, [], [], [], [])
    documents = 0
    for document in iter_range(piece, Document):
        documents += 1
        if document.format in _FORMATS_WITHOUT_FACTS:
            continue
        entity = entity_of(document)
        if entity is None:
            found.dropped.append(_drop(document.id, "unclear_entity", f"the title {document.title!r} names no entity"))
            continue
        found.entities.append((document.id, entity.name))
        said = (entity.evidence.start, entity.evidence.end) if entity.evidence else None
        facts = heading_facts(document, entity.name, found.dropped)
        found.names.extend(with_evidence(fact, entity.evidence) for fact in facts if fact.quantity is None)
        headed = [figure for fact in facts if (figure := heading_figure(fact)) is not None]
        cells = _table_cells(document, entity.name, found.dropped)
        for figure in unambiguous(document.id, headed, cells, found.dropped):
            found.figures.append(figure if said is None else replace(figure, spans=(said, *figure.spans)))
    return replace(found, documents=documents)


def _table_cells(document: Document, entity: str, dropped: list[Dropped]) -> list[Figure]:
    unclear: set[str] = set()

    def every() -> Iterator[Figure]:
        for table in read_tables(document, dropped):
            unclear.update(rows_not_told_apart(table))
            yield from table_figures(document, entity, table)

    found = every()
    cells = list(islice(found, MAX_FIGURES_PER_DOCUMENT))
    if next(found, None) is not None:
        detail = f"only the first {MAX_FIGURES_PER_DOCUMENT} table cells are read"
        dropped.append(_drop(document.id, "too_many_figures", detail))
    named: list[Figure] = []
    unnamed: list[Figure] = []
    for figure in cells:
        (unnamed if figure.measure in unclear and not _has_section(figure) else named).append(figure)
    for attribute in dict.fromkeys(figure.attribute for figure in unnamed):
        detail = f"row {attribute!r} has the name of two rows of a table that nothing tells apart"
        dropped.append(_drop(document.id, "ambiguous_cell", detail))
    return named


def _has_section(figure: Figure) -> bool:
    """True if a section's name tells the row from others of its name."""
    return measure_of(figure.attribute) != figure.measure


def unambiguous(document_id: str, headed: list[Figure], cells: list[Figure], dropped: list[Dropped]) -> list[Figure]:
    """The figures of one document, each key once; what names two numbers is dropped, one record per row's name."""
    yearly = [figure for group in _by_year(cells) for figure in _agreed(group, dropped, document_id)]
    taken = {(figure.table, figure.row, figure.column) for figure in yearly if figure.period == figure.column_name}
    printed = [replace(figure, year=None) for figure in cells if (figure.table, figure.row, figure.column) not in taken]
    printed = _not_told_apart(printed, dropped, document_id)
    by_key: defaultdict[tuple[str, str, str], list[Figure]] = defaultdict(list)
    for figure in (*headed, *yearly, *printed):
        by_key[figure.key].append(figure)
    kept = []
    ambiguous: Counter[str] = Counter()
    for group in by_key.values():
        if len({(figure.value / figure.factor, figure.unit) for figure in group}) > 1:
            ambiguous[group[0].attribute] += 1
            continue
        # a table that states its scale says more than one that does not; else the first
        kept.append(max(group, key=lambda figure: (figure.year is not None, figure.scale != "")))
    for attribute, columns in ambiguous.items():
        detail = f"row {attribute!r} occurs in several tables with different values in {columns} columns"
        dropped.append(_drop(document_id, "ambiguous_cell", detail))
    return kept


def _not_told_apart(cells: list[Figure], dropped: list[Dropped], document_id: str) -> list[Figure]:
    """Without rows whose bare name also names another number: "Foreign" where "Current: Foreign" is printed, too."""
    named: defaultdict[tuple[str, str], set[Decimal]] = defaultdict(set)
    for figure in cells:
        named[figure.measure, figure.period.casefold()].add(figure.value / figure.factor)
    kept = []
    ambiguous: Counter[str] = Counter()
    for figure in cells:
        if not _has_section(figure) and len(named[figure.measure, figure.period.casefold()]) > 1:
            ambiguous[figure.attribute] += 1
        else:
            kept.append(figure)
    for attribute, columns in ambiguous.items():
        detail = f"row {attribute!r} has the name of other rows with different values in {columns} columns"
        dropped.append(_drop(document_id, "ambiguous_cell", detail))
    return kept


def _by_year(cells: list[Figure]) -> Iterable[list[Figure]]:
    groups: defaultdict[tuple[str, int], list[Figure]] = defaultdict(list)
    for figure in cells:
        if figure.year is not None and says_something(figure.attribute):
            groups[(figure.measure, figure.year)].append(figure)
    return groups.values()


def _agreed(group: list[Figure], dropped: list[Dropped], document_id: str) -> Iterator[Figure]:
    """One figure that stands for the year, if all tables say the same number."""
    if len({figure.unit for figure in group}) > 1 or len({figure.value / figure.factor for figure in group}) > 1:
        detail = f"{group[0].attribute!r} has several values for {group[0].year}"
        dropped.append(_drop(document_id, "ambiguous_year", detail))
        return
    first = max(group, key=lambda figure: figure.scale != "")
    yield replace(first, period=str(first.year), attribute=first.attribute.rsplit(": ", 1)[-1])


def _shared_names(entities: list[tuple[str, str]], dropped: list[Dropped]) -> set[str]:
    """Documents about one name: a question about it would have two answers."""
    names = Counter(name.casefold() for _, name in entities)
    shared = {document_id: name for document_id, name in entities if names[name.casefold()] > 1}
    for document_id, name in sorted(shared.items()):
        dropped.append(_drop(document_id, "shared_entity", f"{name!r} is the subject of several documents"))
    return set(shared)


def _drop(document_id: str, reason: str, detail: str) -> Dropped:
    return Dropped(reason=reason, stage="synthesize", detail=detail[:200], record={"document_id": document_id})
