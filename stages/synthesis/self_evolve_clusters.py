"""Clusters of related documents and the excerpts of them that a model is shown.

Related: of one category, sharing words that few other documents use. A cluster grows with the rounds, its first
documents stay, so that the history of its questions stays to the point; each round looks at other passages.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Sequence

from stages.common.records import Category
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.synthesis.self_evolve_prompts import Excerpt

_MIN_DOCUMENT_CHARACTERS = 800
_READ_CHARACTERS = 20_000
_SIGNATURE_WORDS = 60
_KEPT_WORDS = 4 * _SIGNATURE_WORDS  # the most frequent words of a document, before rarity counts
_LOOKED_AT = 200  # documents compared with the first one of a cluster
_WORD = re.compile(r"[A-Za-z]{5,}")


class Clusters:
    """Clusters by number, without end; equal for equal documents and seed."""

    def __init__(self, documents: DocumentStore, size: int, seed: int) -> None:
        self._documents = documents
        self._size = size
        self._seed = seed
        self._signatures: dict[str, frozenset[str]] = {}
        self._of_category: dict[Category, list[str]] = {}
        self._used: Counter[str] = Counter()
        found: dict[str, Counter[str]] = {}
        for document_id in documents:
            document = documents[document_id]
            if len(document.text) < _MIN_DOCUMENT_CHARACTERS:
                continue
            words = Counter(_WORD.findall(f"{document.title} {document.text[:_READ_CHARACTERS]}".lower()))
            self._used.update(words.keys())
            found[document_id] = Counter(dict(words.most_common(_KEPT_WORDS)))
            self._of_category.setdefault(document.category, []).append(document_id)
        self._number = len(found)
        for document_id, words in found.items():
            ranked = sorted(words, key=lambda word: (-words[word] * self._weight(word), word))
            self._signatures[document_id] = frozenset(ranked[:_SIGNATURE_WORDS])
        self._order = sorted(self._signatures)
        rng(seed, "mase", "order").shuffle(self._order)

    def __len__(self) -> int:
        """Documents that are long enough to be read."""
        return len(self._order)

    def cluster(self, number: int) -> list[str]:
        """Document ids of a cluster: one drawn in turn, then those most related to it."""
        first = self._order[number % len(self._order)]
        others = [other for other in self._of_category[self._documents[first].category] if other != first]
        chance = rng(self._seed, "mase", "cluster", number)
        if len(others) > _LOOKED_AT:
            others = chance.sample(others, _LOOKED_AT)
        mine = self._signatures[first]
        ranked = heapq.nsmallest(
            self._size - 1,
            others,
            key=lambda other: (-self._shared(mine, self._signatures[other]), chance.random(), other),
        )
        return [first, *ranked]

    def _weight(self, word: str) -> float:
        """How much a word says: little if many documents use it."""
        return math.log(self._number / self._used[word])

    def _shared(self, mine: frozenset[str], other: frozenset[str]) -> float:
        return math.fsum(self._weight(word) for word in mine & other)

    def excerpts(self, document_ids: Sequence[str], characters: int, number: int, round_index: int) -> list[Excerpt]:
        """A part of each document, at most `characters` long, another one each round."""
        return [self._excerpt(document_id, characters, number, round_index) for document_id in document_ids]

    def _excerpt(self, document_id: str, characters: int, number: int, round_index: int) -> Excerpt:
        document = self._documents[document_id]
        start, end = 0, len(document.text)
        if end > characters:
            chance = rng(self._seed, "mase", "excerpt", number, round_index, document_id)
            start = _paragraph(document.text, chance.randrange(end - characters), characters // 4)
            end = min(end, start + characters)
            stop = document.text.rfind("\n", start + characters // 2, end)
            end = stop if stop > 0 and end < len(document.text) else end
        return Excerpt(document_id, document.title, start, end, document.text[start:end])


def _paragraph(text: str, start: int, within: int) -> int:
    """The next beginning of a paragraph, or of a line, if one is near."""
    for mark in ("\n\n", "\n"):
        place = text.find(mark, start, start + within)
        if place >= 0:
            return place + len(mark)
    return start
