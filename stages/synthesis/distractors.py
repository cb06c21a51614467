"""Irrelevant text for context extension: excerpts of other documents that do not hold the answer.

Hard distractors first: the same attribute of another entity (the same heading in another country's document, the same
row in another table), so that a look-up needs reading and not just finding the only number. Then any place of documents
of the same category, then of all.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stages.common.records import AnswerKind, Document, QAPair, Span, TaskType
from stages.common.storage import DocumentStore
from stages.synthesis.excerpts import TokenOffsets, excerpt_around
from stages.synthesis.outline import Heading, headings

_PLACES_PER_KEY = 64
_ATTRIBUTE_TASKS = frozenset({TaskType.NUMERICAL, TaskType.MULTIPLE_CHOICE, TaskType.MULTI_HOP})
_WORDS = re.compile(r"\w+")
_SERIES = re.compile(r"[A-Za-z]{2,}")
_MIN_CHECKED_LETTERS = 3


@dataclass(frozen=True)
class Place:
    """A position in a document around which an excerpt can be taken; [start, end) is kept whole."""

    document_id: str
    start: int
    end: int


class DistractorSource:
    """Places for irrelevant excerpts. Holds ids and positions, never texts: memory is bounded by the questions."""

    def __init__(self, documents: DocumentStore, pairs: Iterable[QAPair] = ()) -> None:
        """`pairs`: the questions whose attributes are looked up in all documents (one scan)."""
        self._documents = documents
        self._by_category: dict[str, list[str]] = defaultdict(list)
        self._category: dict[str, str] = {}
        self._keys: dict[str, list[str]] = {}  # question id -> attribute keys
        self._places: dict[str, list[Place]] = {}
        self._find_keys(pairs)
        for document_id in documents:
            document = documents[document_id]
            self._by_category[document.category].append(document_id)
            self._category[document_id] = document.category
            self._find_places(document)

    def _find_keys(self, pairs: Iterable[QAPair]) -> None:
        by_document: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for pair in pairs:
            if wants_same_attribute(pair):
                for evidence in pair.evidence:
                    # The last line of the evidence holds the value; what stands above it may be a parent's heading.
                    by_document[evidence.document_id].append((pair.id, max(evidence.start, evidence.end - 1)))
        for document_id, wanted in by_document.items():
            text = self._documents[document_id].text
            found = headings(text)
            for pair_id, position in wanted:
                key = _key_at(text, found, position)
                if key:
                    self._keys.setdefault(pair_id, []).append(key)
                    self._places.setdefault(key, [])

    def _find_places(self, document: Document) -> None:
        if not self._places:
            return
        found = headings(document.text)
        for index, heading in enumerate(found):
            places = self._places.get(_heading_key(found, index))
            if places is not None and len(places) < _PLACES_PER_KEY:
                following = found[index + 1].start if index + 1 < len(found) else len(document.text)
                # A long section is entered at its heading, a short one is taken whole.
                end = following if following - heading.start <= 400 else heading.end
                places.append(Place(document.id, heading.start, max(heading.end, end)))
        position = 0
        for line in document.text.split("\n"):
            places = self._places.get(_row_key(line)) if line.startswith("|") else None
            if places is not None and len(places) < _PLACES_PER_KEY:
                places.append(Place(document.id, position, position + len(line)))
            position += len(line) + 1

    def places(self, pair: QAPair, chance: random.Random, *, hard: bool = True) -> Iterator[Place]:
        """Places in order of preference, without end unless there are no other documents.

        hard: the same attribute of other entities comes first; otherwise any place of the category is as good.
        """
        own = {span.document_id for span in pair.evidence}
        named = [Place(span["document_id"], span["start"], span["end"]) for span in pair.proof.get("distractors", [])]
        near = [place for place in named if place.document_id not in own and place.document_id in self._category]
        for key in dict.fromkeys(self._keys.get(pair.id, [])):
            near += [place for place in self._places[key] if place.document_id not in own]
        chance.shuffle(near)
        if hard:
            yield from near
        category = self._category.get(next(iter(own), ""), "")
        same = [document_id for document_id in self._by_category.get(category, []) if document_id not in own]
        others = [document_id for document_id in self._category if document_id not in own]
        if not others:
            return
        # Where the whole category holds the answer's words, other categories must get their turn.
        for attempt in range(10_000):
            pool = same if same and attempt % 4 != 3 else others
            document_id = chance.choice(pool)
            position = chance.randrange(max(1, len(self._documents[document_id].text)))
            yield Place(document_id, position, position)


def wants_same_attribute(pair: QAPair) -> bool:
    """True for look-ups of an attribute: other entities' values must stand beside the right one."""
    return pair.task_type in _ATTRIBUTE_TASKS or pair.proof.get("kind") == "value_under"


def _heading_key(found: list[Heading], index: int) -> str:
    """`parent > heading`, lower-case; the parent is the nearest heading above of a smaller level."""
    heading = found[index]
    for above in range(index - 1, max(-1, index - 200), -1):
        if found[above].level < heading.level:
            return (
                f"{found[above].title} > {heading.title}".lower() if found[above].level > 1 else heading.title.lower()
            )
    return heading.title.lower()


def _row_key(line: str) -> str:
    """`| first cell`, lower-case, for a row whose first cell has words."""
    cell = line.split("|", 2)[1].strip().lower() if line.count("|") >= 2 else ""
    return f"| {cell}" if any(character.isalpha() for character in cell) else ""


def _key_at(text: str, found: list[Heading], position: int) -> str:
    line_start = text.rfind("\n", 0, position) + 1
    line_end = text.find("\n", position)
    line = text[line_start : line_end if line_end >= 0 else len(text)]
    if line.startswith("|"):
        return _row_key(line)
    index = bisect_right([heading.start for heading in found], position) - 1
    return _heading_key(found, index) if index >= 0 else ""


def distractor(
    pair: QAPair,
    place: Place,
    documents: DocumentStore,
    budget_tokens: int,
    offsets: TokenOffsets,
    chance: random.Random,
) -> tuple[Span, int] | None:
    """An excerpt there of at most `budget_tokens` tokens and its token count, or None if it would not be irrelevant."""
    document = documents[place.document_id]
    if too_close(pair, document, [documents[span.document_id] for span in pair.evidence]):
        return None
    kept = document.text[place.start : place.end].rstrip()
    core = (place.start, place.start + len(kept))
    found = excerpt_around(document.text, core, budget_tokens, budget_tokens, offsets, chance)
    if found is None and kept:  # a section longer than the budget: its beginning
        found = excerpt_around(document.text, (core[0], core[0]), budget_tokens, budget_tokens, offsets, chance)
    if found is None or not _says_something(document.text[found.start : found.end]):
        return None
    if not kept and found.tokens < budget_tokens // 3:
        return None  # a scrap between long paragraphs
    if gives_away(pair, f"{document.title}\n{document.text[found.start : found.end]}"):
        return None
    return Span(document_id=document.id, start=found.start, end=found.end), found.tokens


def _says_something(text: str) -> bool:
    """True if a line is neither blank nor a heading."""
    return any(line.strip() and not line.startswith("#") for line in text.split("\n"))


def too_close(pair: QAPair, document: Document, evidence_documents: list[Document]) -> bool:
    """True if the document may speak of the same thing: same title, or for look-ups the same series of files.

    `aapl-10K-2024.md` and `aapl-10Q.md` in one folder are about one company, and both give a revenue.
    """
    if any(document.title == other.title for other in evidence_documents):
        return True
    return pair.task_type in _ATTRIBUTE_TASKS and any(
        _series(document) == _series(other) for other in evidence_documents
    )


def _series(document: Document) -> tuple[str, str]:
    folder, _, name = document.source.rpartition("/")
    match = _SERIES.match(name)
    return (folder, match[0].lower()) if match else (folder, name)


def gives_away(pair: QAPair, text: str) -> bool:
    """True if the text holds the answer in words. Bare numbers recur everywhere and are read by their heading."""
    words = " ".join(_WORDS.findall(text.lower()))
    return any(
        f" {plain} " in f" {words} "
        for answer in _answers_in_words(pair)
        if sum(map(str.isalpha, answer)) >= _MIN_CHECKED_LETTERS and (plain := " ".join(_WORDS.findall(answer.lower())))
    )


def _answers_in_words(pair: QAPair) -> list[str]:
    if pair.answer_kind is AnswerKind.NUMBER:
        return []
    if pair.answer_kind is AnswerKind.LETTER:
        index = "ABCDEFGH".find(str(pair.answer))
        return [pair.choices[index]] if 0 <= index < len(pair.choices) else []
    if isinstance(pair.answer, list):
        return pair.answer
    prefix = str(pair.proof.get("prefix", ""))
    return [pair.answer.removeprefix(prefix)]
