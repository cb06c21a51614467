"""All facts of a corpus, read once: what the multi_hop, numerical and multiple_choice generators draw from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import InputError
from stages.common.records import Category, Document, Dropped
from stages.common.storage import iter_records
from stages.synthesis.entities import Entity, entity_of
from stages.synthesis.facts import Fact, heading_facts, with_evidence
from stages.synthesis.table_facts import table_facts

log = logging.getLogger(__name__)

# Python files and dialogues have no headings or tables that state facts.
_FORMATS_WITHOUT_FACTS = ("python", "dialogue")


@dataclass(frozen=True)
class Corpus:
    """Facts of all documents, in file order.

    entities: document id -> whom the document is about; names are distinct.
    facts:    (entity, attribute, period) is unique.
    """

    documents: int
    entities: dict[str, Entity]
    facts: list[Fact]
    dropped: list[Dropped]


def read_corpus(folder: Path) -> Corpus:
    """Read every category file in `folder`. InputError if there is none."""
    entities: dict[str, Entity] = {}
    facts: list[Fact] = []
    dropped: list[Dropped] = []
    documents = 0
    for document in _documents(folder):
        documents += 1
        if document.format in _FORMATS_WITHOUT_FACTS:
            continue
        entity = entity_of(document)
        if entity is None:
            dropped.append(_drop(document, "unclear_entity", f"the title {document.title!r} names no entity"))
            continue
        entities[document.id] = entity
        found = heading_facts(document, entity.name, dropped) + table_facts(document, entity.name, dropped)
        facts.extend(with_evidence(fact, entity.evidence) for fact in found)
    facts = _without_shared_names(entities, facts, dropped)
    log.info("%d documents, %d facts", documents, len(facts))
    return Corpus(documents, entities, facts, dropped)


def _documents(folder: Path) -> Iterator[Document]:
    paths = [folder / f"{category}.jsonl" for category in Category if category is not Category.DIALOGUES]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise InputError(f"{folder} holds no documents. Run the ingest stage first: `longfuse run --only ingest`.")
    for path in present:
        yield from iter_records(path, Document)


def _without_shared_names(entities: dict[str, Entity], facts: list[Fact], dropped: list[Dropped]) -> list[Fact]:
    """Two documents about one name: a question about it would have two answers."""
    names = Counter(entity.name.casefold() for entity in entities.values())
    shared = {document_id for document_id, entity in entities.items() if names[entity.name.casefold()] > 1}
    for document_id in sorted(shared):
        detail = f"{entities[document_id].name!r} is the subject of several documents"
        dropped.append(
            Dropped(
                reason="shared_entity", stage="synthesize", detail=detail[:200], record={"document_id": document_id}
            )
        )
        del entities[document_id]
    return [fact for fact in facts if fact.document_id not in shared]


def _drop(document: Document, reason: str, detail: str) -> Dropped:
    return Dropped(reason=reason, stage="synthesize", detail=detail[:200], record={"document_id": document.id})
