"""Which documents would change the answer of a question over "all", if they stood in its context: found from the texts.

Assembly knows this of the whole corpus from its survey (contexts.py); here it is read from the few documents that a check
wants to add. The rule is the same: whatever states an attribute that the question's evidence states would be counted in.
"""

from __future__ import annotations

from functools import lru_cache

from stages.common.records import QAPair
from stages.synthesis.attributes import Attribute, asked_keys, attributes_of, key_at
from stages.synthesis.distractor_rules import is_open
from stages.synthesis.text_words import Library

_KEPT_DOCUMENTS = 128


class CountedIn:
    """Tells which documents a question must not be shown beside its own."""

    def __init__(self, library: Library) -> None:
        @lru_cache(maxsize=_KEPT_DOCUMENTS)
        def attributes_in(document_id: str) -> tuple[Attribute, ...]:
            return tuple(attributes_of(library[document_id]))

        self._attributes_in = attributes_in

    def asked(self, pair: QAPair) -> frozenset[int]:
        """The attributes that no other document may state; none unless the question is open (`is_open`)."""
        return frozenset(asked_keys(pair, self._key_at)) if is_open(pair) else frozenset()

    def states(self, document_id: str, keys: frozenset[int]) -> bool:
        """True if a document states one of the attributes."""
        return bool(keys) and any(attribute.key in keys for attribute in self._attributes_in(document_id))

    def _key_at(self, document_id: str, position: int) -> int:
        found = self._attributes_in(document_id)
        starts, ends = [attribute.start for attribute in found], [attribute.end for attribute in found]
        is_row, keys = [attribute.is_row for attribute in found], [attribute.key for attribute in found]
        return key_at(starts, ends, is_row, keys, position)
