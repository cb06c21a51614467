"""Exact duplicates, by a hash of the text that ignores white space. The first document in id order stays."""

from __future__ import annotations

import hashlib


def text_key(text: str) -> str:
    """Equal for texts that differ in white space only."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


class Deduplicator:
    """Remembers one hash per text, so memory grows with the number of documents, not with their length."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def original_of(self, document_id: str, text: str) -> str | None:
        """The id of an earlier document with the same text; None if this is the first one.

        Feed documents in id order: then the winner does not depend on the file system.
        """
        first = self._first.setdefault(text_key(text), document_id)
        return None if first == document_id else first
