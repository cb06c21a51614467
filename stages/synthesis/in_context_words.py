"""Invented label names: pronounceable, all of one length, and in none of the texts beside which they stand."""

from __future__ import annotations

import random
from collections.abc import Sequence

_FIRST = "bdfgklmnprstvz"
_VOWELS = "aeiou"
# Joints and ends that English words of this form hardly have: "garden" and "silver" cannot come out.
_JOINTS = ("fn", "gv", "km", "lb", "lv", "mv", "nz", "pz", "rv", "rz", "zb", "zn")
_LAST = "bkmpxz"
_TRIES = 1_000


def invented_labels(number: int, texts: Sequence[str], chance: random.Random) -> list[str]:
    """Labels of six letters with different first letters, so that none is a part of another; none occurs in a text.

    texts: in lower case. Fewer labels are given only if the texts hold nearly all that can be made.
    """
    labels: list[str] = []
    for _ in range(_TRIES):
        if len(labels) == number:
            break
        label = (
            f"{chance.choice(_FIRST)}{chance.choice(_VOWELS)}{chance.choice(_JOINTS)}"
            f"{chance.choice(_VOWELS)}{chance.choice(_LAST)}"
        )
        if any(label[0] == other[0] for other in labels) or any(label in text for text in texts):
            continue
        labels.append(label)
    return labels
