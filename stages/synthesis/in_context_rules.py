"""Simpler rules that could explain labelled examples as well as the hidden one: a question for which one does is not asked.

A rule on the wording is one that gives every example its label and says something about every text to be labelled; it needs
no document. Whether it would be right does not matter: the question would be solved, or be ambiguous, without reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

Labelled = tuple[str, str]  # (text, label)

_WORD = re.compile(r"[^\W\d_]+")
_LEAST_LETTERS = (4, 2)  # of words that are compared: telling ones, and then also the "is" of is_empty

_KINDS: dict[str, Callable[[str], Hashable]] = {
    "first letter": lambda text: text[:1].lower(),
    "first word": lambda text: _words(text)[:1],
    "last word": lambda text: _words(text)[-1:],
    "last character": lambda text: text[-1:],
}
_SIZES: dict[str, Callable[[str], float]] = {
    "length": lambda text: len(text),
    "words": lambda text: len(text.split()),
    "capitals": lambda text: sum(map(str.isupper, text)),
    "digits": lambda text: sum(map(str.isdigit, text)),
    "commas": lambda text: text.count(","),
}


def surface_rule(shots: Sequence[Labelled], asked: Sequence[Labelled]) -> str | None:
    """The name of a rule on the wording alone that explains all shots, or that labels all asked texts; None if there is none."""
    labels = [label for _, label in shots]
    for name, value in _KINDS.items():
        if by_kind(list(zip(map(value, _texts(shots)), labels, strict=True)), [*map(value, _texts(asked))]) is not None:
            return name
    for name, size in _SIZES.items():
        if in_ranges(list(zip(map(size, _texts(shots)), labels, strict=True))):
            return name
    for letters in _LEAST_LETTERS:
        if asked and all(_most_shared(shots, text, letters) == label for text, label in asked):
            return "shared words"
    return None


def by_kind(shots: Sequence[tuple[Hashable, str]], asked: Sequence[Hashable]) -> list[str] | None:
    """The labels that "equal value, equal label" gives the asked values; None if shots contradict it or a value is new."""
    label_of: dict[Hashable, str] = {}
    if any(label_of.setdefault(value, label) != label for value, label in shots):
        return None
    return [label_of[value] for value in asked] if all(value in label_of for value in asked) else None


def in_ranges(shots: Sequence[tuple[float, str]]) -> bool:
    """True if every label has a range of values of its own: thresholds would explain the shots."""
    values = defaultdict(list)
    for value, label in shots:
        values[label].append(value)
    ranges = sorted((min(found), max(found)) for found in values.values())
    return all(before[1] < after[0] for before, after in pairwise(ranges))


def nearest(shots: Sequence[tuple[float, str]], value: float) -> str:
    """The label of the shot whose value is nearest: how ranges are read between and beyond them."""
    return min(shots, key=lambda shot: abs(shot[0] - value))[1]


def _most_shared(shots: Sequence[Labelled], text: str, letters: int) -> str | None:
    """The label whose shots share the most words of so many letters with a text, if one has more than any other."""
    own, shared = _long_words(text, letters), defaultdict[str, int](int)
    for other, label in shots:
        shared[label] += len(own & _long_words(other, letters))
    best = max(shared.values(), default=0)
    winners = [label for label, number in shared.items() if number == best]
    return winners[0] if best and len(winners) == 1 else None


def _texts(labelled: Sequence[Labelled]) -> list[str]:
    return [text for text, _ in labelled]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def _long_words(text: str, letters: int) -> set[str]:
    return {word for word in _words(text) if len(word) >= letters}
