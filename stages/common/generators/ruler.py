"""RULER's needle in a haystack, single form (Hsieh et al. 2024, task niah_single_2): one number hidden in prose.

As published: the needle's sentence, adjective-noun keys, 7-digit values, 40 equal steps of depth, the needle between
sentences, and the score (share of gold strings that occur in the answer). Departures: the hay is any text given (the
original uses essays), the word lists are ours, there is no answer prefix (chat models answer in a turn of their own).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.fitting import CountTokens, longest_prefix

DEPTHS = tuple(step / 39 for step in range(40))

_ADJECTIVES = [
    "amber",
    "ancient",
    "bold",
    "brave",
    "brisk",
    "calm",
    "clever",
    "cosmic",
    "curious",
    "dapper",
    "dusty",
    "eager",
    "early",
    "fancy",
    "fuzzy",
    "gentle",
    "glossy",
    "golden",
    "hasty",
    "humble",
    "icy",
    "jolly",
    "keen",
    "lively",
    "lucky",
    "mellow",
    "mighty",
    "misty",
    "noble",
    "odd",
    "patient",
    "plain",
    "proud",
    "quick",
    "quiet",
    "rapid",
    "royal",
    "rustic",
    "shiny",
    "silent",
    "simple",
    "sleepy",
    "smooth",
    "solid",
    "steady",
    "sunny",
    "swift",
    "tidy",
    "vivid",
    "witty",
]
_NOUNS = [
    "anchor",
    "apple",
    "badge",
    "basket",
    "beacon",
    "bridge",
    "button",
    "candle",
    "canyon",
    "carpet",
    "castle",
    "cherry",
    "compass",
    "copper",
    "cradle",
    "desert",
    "dragon",
    "engine",
    "falcon",
    "feather",
    "forest",
    "garden",
    "glacier",
    "hammer",
    "harbor",
    "island",
    "jacket",
    "kettle",
    "lantern",
    "lemon",
    "marble",
    "meadow",
    "mirror",
    "needle",
    "orchid",
    "paddle",
    "pepper",
    "pillow",
    "planet",
    "pocket",
    "ribbon",
    "river",
    "saddle",
    "shadow",
    "spider",
    "summit",
    "temple",
    "thunder",
    "tunnel",
    "velvet",
]
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+|\n+")
_GROWTH_TRIES = 12  # characters that the hay may grow to fill the last tokens
# How far the needle may move from its depth to stand between sentences: in a short hay a tenth of it.
_SEARCH_CHARACTERS, _SEARCH_SHARE = 400, 0.1


@dataclass(frozen=True)
class NeedleTask:
    """A haystack with its needle. `position`: where the needle begins, as a share of the context's characters."""

    context: str
    question: str
    key: str
    value: str
    depth: float
    position: float


def random_key(chance: random.Random) -> str:
    """A key of a needle: adjective-noun."""
    return f"{chance.choice(_ADJECTIVES)}-{chance.choice(_NOUNS)}"


def needle_sentence(key: str, value: str) -> str:
    """The sentence that is hidden."""
    return f"One of the special magic numbers for {key} is: {value}."


def needle_question(key: str) -> str:
    """What is asked about it."""
    return f"What is the special magic number for {key} mentioned in the provided text?"


def make_needle(
    hay: str, context_tokens: int, depth: float, chance: random.Random, count_tokens: CountTokens
) -> NeedleTask:
    """Hide a random needle in the longest beginning of `hay` with which the context has at most `context_tokens`.

    depth: 0 (beginning) to 1 (end). The context falls short of `context_tokens` by very few tokens, mostly by none,
    unless the hay is too short. ValueError if not even the needle fits.
    """
    key = random_key(chance)
    value = str(chance.randint(1_000_000, 9_999_999))
    sentence = needle_sentence(key, value)
    room = context_tokens - count_tokens(sentence)
    if room < 0:
        raise ValueError(f"a context of {context_tokens} tokens cannot hold the needle of {count_tokens(sentence)}")
    end = longest_prefix(hay, room, count_tokens, slack_tokens=1)

    def total_at(characters: int) -> int:
        return count_tokens(_hide(hay[:characters], sentence, depth)[0])

    # The parts together may have a few tokens more or less than each alone: settle it by counting the whole.
    while end and (excess := total_at(end) - context_tokens) > 0:
        end = max(0, end - excess)
    for _ in range(_GROWTH_TRIES):
        if end < len(hay) and total_at(end + 1) <= context_tokens:
            end += 1
    context, start = _hide(hay[:end], sentence, depth)
    return NeedleTask(context, needle_question(key), key, value, depth, start / len(context))


def share_contained(prediction: str, golds: Sequence[str]) -> float:
    """Share of the gold strings that occur in the prediction, letter case ignored; extra text costs nothing."""
    lowered = prediction.lower()
    return sum(gold.lower() in lowered for gold in golds) / len(golds)


def _hide(hay: str, sentence: str, depth: float) -> tuple[str, int]:
    """The hay with the sentence between two of its sentences, and where it begins."""
    place = _between_sentences(hay, round(len(hay) * depth))
    before, after = hay[:place], hay[place:]
    if before and not before[-1].isspace():
        before += " "
    if after and not after[0].isspace():
        after = " " + after
    return before + sentence + after, len(before)


def _between_sentences(text: str, wanted: int) -> int:
    """The sentence boundary nearest to a place: the text's ends count, a far one gives way to a word boundary."""
    reach = min(_SEARCH_CHARACTERS, int(len(text) * _SEARCH_SHARE))
    low, high = max(0, wanted - reach), min(len(text), wanted + reach)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, low, high)]
    ends += [edge for edge in (0, len(text)) if low <= edge <= high]
    if ends:
        return min(ends, key=lambda end: (abs(end - wanted), end))
    blank = text.rfind(" ", low, wanted)
    return blank + 1 if blank >= 0 else wanted
