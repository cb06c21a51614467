"""Questions that ask nearly the same as an earlier one: exact Jaccard similarity of word pairs, by prefix filtering.

Two questions are near-duplicates if their pairs of neighbouring words (case, punctuation, articles and an answer's random
prefix left out) have a Jaccard similarity of at least 0.85: one word of some 25 differs, or only the order of a clause. Every
pair of questions that similar shares one of the few rarest word pairs of both (Bayardo et al. 2007), so few are compared, and
none is missed as MinHash would. In a short question one other name or number is another question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from stages.common.records import QAPair
from stages.common.text import collapse_blanks

THRESHOLD = 0.85
_WORDS = re.compile(r"\w+")
_IGNORED_WORDS = frozenset({"a", "an", "the", "of", "in", "is", "was", "please"})


def question_key(pair: QAPair) -> str:
    """Equal for questions that differ only in case, punctuation, blanks, articles and the random prefix to be written."""
    prefix = str(pair.proof.get("prefix") or "").lower()
    asked = collapse_blanks(" ".join([pair.question, *pair.choices])).lower()
    return " ".join(word for word in _WORDS.findall(asked) if word not in _IGNORED_WORDS and word != prefix)


def near_duplicates(pairs: Sequence[QAPair]) -> dict[str, str]:
    """Maps the id of a later question to that of the first kept one that asks nearly the same."""
    return similar_to_earlier([(pair.id, question_key(pair)) for pair in pairs])


def similar_to_earlier(keys: Sequence[tuple[str, str]]) -> dict[str, str]:
    """As `near_duplicates`, from (id, key) alone."""
    sets = [_word_pairs(key) for _, key in keys]
    frequency = Counter(word_pair for found in sets for word_pair in found)
    kept_with: defaultdict[str, list[int]] = defaultdict(list)
    repeats: dict[str, str] = {}
    for number, (own_id, _) in enumerate(keys):
        rarest_first = sorted(sets[number], key=lambda word_pair: (frequency[word_pair], word_pair))
        # At least ceil(t * n) of n are shared, so one of the first n - ceil(t * n) + 1 is.
        prefix = rarest_first[: len(rarest_first) - _ceil(THRESHOLD * len(rarest_first)) + 1]
        candidates = dict.fromkeys(other for word_pair in prefix for other in kept_with[word_pair])
        first = min((other for other in candidates if _similar(sets[number], sets[other])), default=None)
        if first is not None:
            repeats[own_id] = keys[first][0]
            continue
        for word_pair in prefix:
            kept_with[word_pair].append(number)
    return repeats


def _word_pairs(key: str) -> frozenset[str]:
    words = key.split()
    return frozenset(f"{a} {b}" for a, b in zip(words, [*words[1:], ""], strict=True))


def _similar(a: frozenset[str], b: frozenset[str]) -> bool:
    if min(len(a), len(b)) < THRESHOLD * max(len(a), len(b)):
        return False
    shared = len(a & b)
    return shared >= THRESHOLD * (len(a) + len(b) - shared)


def _ceil(value: float) -> int:
    return -int(-value // 1)
