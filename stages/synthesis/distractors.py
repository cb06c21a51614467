"""Irrelevant text for context extension: where to take it from. What it must not say: distractor_rules.py.

Hard distractors first: the same attribute of another entity (the same heading in another country's document, the same
row in another table), so that a look-up needs reading and not just finding the only number; then documents that share
the most telling words and names with the evidence and the question (an inverted index), near the question's words. Then
any place of documents of the same category, then of all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.common.records import QAPair
from stages.common.storage import DocumentStore
from stages.synthesis.attributes import asked_keys, key_at
from stages.synthesis.distractor_rules import ATTRIBUTE_TASKS, guard_of
from stages.synthesis.excerpts import Excerpt, TokenOffsets, excerpt_around
from stages.synthesis.similarity import SimilarDocuments
from stages.synthesis.survey import Survey
from stages.synthesis.terms import question_terms
from stages.synthesis.text_words import Library, plain

_PLACES_PER_KEY = 64
_SIMILAR_DOCUMENTS = 48
_FOCUS_WORDS = 3
_RANDOM_PLACES = 10_000


@dataclass(frozen=True)
class Place:
    """A position in a document around which an excerpt can be taken; [start, end) is kept whole."""

    document_id: str
    start: int
    end: int


class RandomPlaces:
    """Any place of any document, those of the evidence's category more often. Holds ids and lengths, no texts."""

    def __init__(self, documents: Iterable[tuple[str, str, int]]) -> None:
        """documents: (id, category, characters)"""
        self._by_category: dict[str, list[str]] = defaultdict(list)
        self._category: dict[str, str] = {}
        self._characters: dict[str, int] = {}
        for document_id, category, characters in documents:
            self._by_category[category].append(document_id)
            self._category[document_id] = category
            self._characters[document_id] = characters
        self._all = list(self._category)

    @classmethod
    def of_store(cls, documents: DocumentStore) -> RandomPlaces:
        """All documents of a store (reads each once)."""
        return cls((d.id, str(d.category), len(d.text)) for d in (documents[document_id] for document_id in documents))

    def __contains__(self, document_id: str) -> bool:
        return document_id in self._category

    def places(self, pair: QAPair, chance: random.Random) -> Iterator[Place]:
        """Places in documents that are not the question's own; none if there are no others."""
        own = {span.document_id for span in pair.evidence}
        category = self._category.get(next(iter(sorted(own)), ""), "")
        same = self._by_category.get(category, [])
        if len(self._all) <= len(own):
            return
        # Where the whole category holds the answer's words, other categories must get their turn.
        for attempt in range(_RANDOM_PLACES):
            document_id = chance.choice(same if same and attempt % 4 != 3 else self._all)
            if document_id not in own:
                position = chance.randrange(max(1, self._characters[document_id]))
                yield Place(document_id, position, position)


class DistractorSource:
    """Places for irrelevant excerpts, hard ones first."""

    def __init__(self, survey: Survey, library: Library) -> None:
        self._survey = survey
        self._library = library
        self._similar = SimilarDocuments(survey)
        self._random = RandomPlaces(zip(survey.ids, survey.categories, survey.characters, strict=True))
        keys = survey.all_of("keys")
        self._key_order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[self._key_order]

    def places(self, pair: QAPair, chance: random.Random, *, hard: bool = True) -> Iterator[Place]:
        """Places in order of preference, without end unless there are no other documents.

        hard: the same attribute of other entities comes first, then similar documents; otherwise any place is as good.
        """
        own = {span.document_id for span in pair.evidence}
        named: list[Any] = pair.proof.get("distractors", [])
        near = [
            Place(span["document_id"], span["start"], span["end"])
            for span in named
            if span["document_id"] not in own and span["document_id"] in self._random
        ]
        if hard and wants_same_attribute(pair):
            near += [place for key in self.keys_of(pair) for place in self._with_key(key, own, chance)]
        chance.shuffle(near)
        if hard:
            yield from near
            yield from self._similar_places(pair, own, chance)
        yield from self._random.places(pair, chance)

    def keys_of(self, pair: QAPair) -> list[int]:
        """The attributes that the question's evidence states."""
        return asked_keys(pair, self._key_at)

    def _key_at(self, document_id: str, position: int) -> int:
        number = self._survey.number_of.get(document_id)
        if number is None:
            return 0
        names = ("key_starts", "key_ends", "key_is_row", "keys")
        starts, ends, is_row, keys = (self._survey.column(name, number) for name in names)
        return key_at(starts, ends, is_row, keys, position)

    def documents_with_key(self, key: int) -> set[str]:
        """All documents that state an attribute."""
        return {self._survey.ids[self._owner(index)] for index in self._entries(key)}

    def _entries(self, key: int) -> list[int]:
        low = int(np.searchsorted(self._sorted_keys, np.uint64(key)))
        high = int(np.searchsorted(self._sorted_keys, np.uint64(key), side="right"))
        return [int(index) for index in self._key_order[low:high]]

    def _owner(self, entry: int) -> int:
        return int(np.searchsorted(self._survey.offsets_of("keys"), entry, side="right")) - 1

    def _with_key(self, key: int, own: set[str], chance: random.Random) -> list[Place]:
        entries = self._entries(key)
        if len(entries) > _PLACES_PER_KEY:
            entries = chance.sample(entries, _PLACES_PER_KEY)
        starts, ends = self._survey.all_of("key_starts"), self._survey.all_of("key_ends")
        found = [Place(self._survey.ids[self._owner(e)], int(starts[e]), int(ends[e])) for e in entries]
        return [place for place in found if place.document_id not in own]

    def _similar_places(self, pair: QAPair, own: set[str], chance: random.Random) -> Iterator[Place]:
        numbers = [self._survey.number_of[document_id] for document_id in sorted(own) if document_id in self._random]
        asked = question_terms(pair.question)
        found = self._similar.most_similar(numbers, asked, _SIMILAR_DOCUMENTS) if numbers else []
        rarest = self._rarest_words(pair.question)
        chance.shuffle(found)
        for number in found:
            words = self._library.words(self._survey.ids[number])
            said = next((word for word in rarest if word in words), None)
            position = chance.randrange(max(1, self._survey.characters[number]))
            if said is not None:
                position = words.positions(said)[0]
            yield Place(self._survey.ids[number], position, position)

    def _rarest_words(self, question: str) -> list[str]:
        """The question's most telling words: where a document uses one of them, it is nearest to the question."""
        words = dict.fromkeys(plain(question).split())
        rarity = {word: self._similar.rarity(terms[0]) for word in words if (terms := question_terms(word))}
        known = [word for word in rarity if rarity[word] > 0]
        return sorted(known, key=lambda word: (-rarity[word], word))[:_FOCUS_WORDS]


def wants_same_attribute(pair: QAPair) -> bool:
    """True for look-ups of an attribute: other entities' values must stand beside the right one."""
    return pair.task_type in ATTRIBUTE_TASKS or pair.proof.get("kind") == "value_under"


def distractor(
    pair: QAPair,
    place: Place,
    library: Library,
    budget_tokens: int,
    offsets: TokenOffsets,
    chance: random.Random,
) -> Excerpt | None:
    """A short excerpt there of at most `budget_tokens` tokens, or None if it would not be irrelevant."""
    document = library[place.document_id]
    guard = guard_of(
        pair, [library[document_id] for document_id in dict.fromkeys(e.document_id for e in pair.evidence)]
    )
    if not guard.allows_document(document.title, document.source):
        return None
    found = short_excerpt(document.text, place, budget_tokens, offsets, chance)
    if found is None or not guard.allows_text(library.words(document.id), found.start, found.end):
        return None
    return found


def short_excerpt(
    text: str, place: Place, budget_tokens: int, offsets: TokenOffsets, chance: random.Random
) -> Excerpt | None:
    """An excerpt around a place that says something; of a section longer than the budget its beginning."""
    kept = text[place.start : place.end].rstrip()
    core = (place.start, place.start + len(kept))
    found = excerpt_around(text, core, budget_tokens, budget_tokens, offsets, chance)
    if found is None and kept:
        found = excerpt_around(text, (core[0], core[0]), budget_tokens, budget_tokens, offsets, chance)
    if found is None or not _says_something(text[found.start : found.end]):
        return None
    if not kept and found.tokens < budget_tokens // 3:
        return None  # a scrap between long paragraphs
    return found


def _says_something(text: str) -> bool:
    """True if a line is neither blank nor a heading."""
    return any(line.strip() and not line.startswith("#") for line in text.split("\n"))
