"""Texts as sequences of hashed words: what near-duplicates, repetition and decontamination are measured on.

A word is a run of letters and digits, lower case, with the points, commas and apostrophes inside it (`1,496.5`, `don't`); other
punctuation and layout do not count. Chinese and Japanese are written without blanks: there each character is a word. Hashes are the
same in every process and on every machine.

Legend: N words, M = N - n + 1 n-grams, uint64.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:[.,'\u2019][^\W{_CJK}]+)*")
_MAX_KNOWN_WORDS = 1_000_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def words_of(text: str) -> list[str]:
    """Lower-case words in order."""
    return _WORD.findall(text.lower())


class WordHasher:
    """Hashes words; remembers those it met, since texts repeat their words."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, words: Iterable[str]) -> Hashes:
        """words_N -> uint64[N]"""
        known = self._known
        if len(known) > _MAX_KNOWN_WORDS:
            known.clear()
        words = list(words)
        for word in set(words).difference(known):
            known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return np.fromiter(map(known.__getitem__, words), dtype=np.uint64, count=len(words))


def gram_hashes(words_N: Hashes, n: int) -> Hashes:
    """The hash of every n-gram: uint64[N] -> uint64[M], empty if there are fewer than n words."""
    count = len(words_N) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        total = total * _MULTIPLIER + words_N[offset : offset + count]  # modulo 2**64
    total ^= total >> np.uint64(31)
    total *= _MIX
    return total ^ (total >> np.uint64(29))
