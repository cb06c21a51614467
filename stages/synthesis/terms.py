"""What a document is about, as numbers: its words and names, hashed, with how often each occurs.

Names are runs of capitalised words ("Net Interest Income", "San Francisco"): documents that share them speak of the same
things. Hashes make the vocabulary's size a constant, whatever the corpus; two words in one bucket only blur a ranking.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter

import numpy as np
import numpy.typing as npt

BUCKETS = 1 << 20
MAX_TERMS = 2048  # of one document, the most frequent: bounds the survey, whatever the document's length
_WORD = re.compile(r"[^\W\d_]{3,24}")
_NAME = re.compile(r"\b[A-Z][\w&.-]+(?: [A-Z][\w&.-]+){1,4}")
_NAME_WEIGHT = 2


def bucket(term: str) -> int:
    """The number of a term, the same on every machine."""
    return zlib.crc32(term.lower().encode()) % BUCKETS


def terms_of(text: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(buckets, ascending; how often each occurs, a name counting double) of a text's most frequent terms."""
    counts: Counter[str] = Counter(_WORD.findall(text.lower()))
    for name, times in Counter(_NAME.findall(text)).items():
        counts[f"{name.lower()} "] += _NAME_WEIGHT * times  # never equal to a word
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_TERMS]
    by_bucket: Counter[int] = Counter()
    for term, times in common:
        by_bucket[bucket(term)] += times
    found = sorted(by_bucket)
    return np.array(found, dtype=np.int32), np.array([by_bucket[number] for number in found], dtype=np.int32)


def question_terms(text: str) -> list[int]:
    """Buckets of the words and names of a question, each once, in order."""
    words = [*_WORD.findall(text.lower()), *(f"{name.lower()} " for name in _NAME.findall(text))]
    return list(dict.fromkeys(bucket(word) for word in words))
