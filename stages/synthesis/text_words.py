"""Finding words in a document whatever their case and punctuation, fast: the words once as one string, with positions."""

from __future__ import annotations

import re
from collections import OrderedDict

import numpy as np

from stages.common.records import Document
from stages.common.storage import DocumentStore

_WORDS = re.compile(r"\w+")
_MAX_FOUND = 4000


def plain(text: str) -> str:
    """The words of a text, lower-case, one blank between them."""
    return " ".join(_WORDS.findall(text.lower()))


class TextWords:
    """The words of one text."""

    def __init__(self, text: str) -> None:
        words, starts = [], []
        for match in _WORDS.finditer(text):
            words.append(match[0].lower())
            starts.append(match.start())
        self._joined = f" {' '.join(words)} "
        self._places = np.cumsum([1, *(len(word) + 1 for word in words)], dtype=np.int64)[: len(words)]
        self._starts = np.array(starts, dtype=np.int32)

    def __contains__(self, phrase: str) -> bool:
        """True if the words of a phrase (as `plain` writes them) stand side by side in the text."""
        return f" {phrase} " in self._joined

    def positions(self, phrase: str, start: int = 0, end: int | None = None) -> list[int]:
        """Characters at which the phrase begins, in [start, end); the first few thousand."""
        low = 0
        if start > 0:
            index = int(np.searchsorted(self._starts, start))
            if index >= len(self._starts):
                return []
            low = int(self._places[index]) - 1
        found: list[int] = []
        wanted = f" {phrase} "
        while len(found) < _MAX_FOUND:
            low = self._joined.find(wanted, low)
            if low < 0:
                break
            position = int(self._starts[int(np.searchsorted(self._places, low + 1))])
            if end is not None and position >= end:
                break
            found.append(position)
            low += len(wanted) - 1
        return found


class Library:
    """Documents and their words, the latest ones kept in memory."""

    def __init__(self, documents: DocumentStore, kept: int = 1024) -> None:
        self.documents = documents
        self._kept = kept
        self._words: OrderedDict[str, TextWords] = OrderedDict()

    def __getitem__(self, document_id: str) -> Document:
        return self.documents[document_id]

    def words(self, document_id: str) -> TextWords:
        """The words of a document."""
        if document_id in self._words:
            self._words.move_to_end(document_id)
            return self._words[document_id]
        found = TextWords(self.documents[document_id].text)
        self._words[document_id] = found
        if len(self._words) > self._kept:
            self._words.popitem(last=False)
        return found
