"""Recall of one turn of a long conversation, after MRCR (Vodrahalli et al. 2024; openai/mrcr).

As published: the same request fits 2 to 8 turns, one of them by its ordinal is to be repeated word for word behind a
random string; the score is difflib's ratio, 0 without the string (rewards.rules.sequence_match_ratio). Departure: real
turns of real people in place of generated ones, so the request is "the N-th turn in which S says W" or "the N-th turn
of S" in place of "the N-th poem about tapirs".
"""

from __future__ import annotations

import random
import re
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.fitting import CountTokens, longest_prefix
from stages.common.text import collapse_blanks
from stages.common.turns import Turn, ordinal

MIN_MATCHES, MAX_MATCHES = 2, 8

_WORD = re.compile(r"[^\W\d_]{4,}")
_UNSPEAKABLE = frozenset("{}[]<>")  # tool output, {vocalsound}, removed names
_MIN_WORDS = 3


@dataclass(frozen=True)
class RecallTask:
    """A transcript and a turn to be recalled. `position`: where that turn begins, as a share of the characters."""

    context: str
    question: str
    prefix: str
    turn: str
    position: float

    @property
    def gold(self) -> str:
        return self.prefix + self.turn


def make_recall(
    turns: Sequence[Turn],
    context_tokens: int,
    max_answer_tokens: int,
    chance: random.Random,
    count_tokens: CountTokens,
) -> RecallTask | None:
    """Ask for one turn of a transcript of at most `context_tokens` tokens, made of the first turns given, each on one line.

    The last turn of the transcript is cut where the tokens end; it is never asked for. Gold answers have at most
    `max_answer_tokens` tokens. None if no turn can be asked for.
    """
    turns = [turn for turn in turns if turn.text.strip()]
    text = "\n".join(turn.line for turn in turns)
    context = text[: longest_prefix(text, context_tokens, count_tokens)]
    whole, starts, position = [], [], 0
    for turn in turns:
        if position + len(turn.line) > len(context):
            break
        whole.append(turn)
        starts.append(position)
        position += len(turn.line) + 1
    prefix = "".join(chance.choices(string.ascii_letters + string.digits, k=10))
    places = [index for index, turn in enumerate(whole) if _askable(turn)]
    chance.shuffle(places)
    requests = _requests(whole)
    for index in places:
        turn, said = whole[index], collapse_blanks(whole[index].text)
        fitting = [(words, found.index(index) + 1) for words, found in requests.items() if index in found]
        if not fitting or count_tokens(prefix + said) > max_answer_tokens:
            continue
        words, number = fitting[chance.randrange(len(fitting))]
        question = (
            f"Prepend {prefix} to the {ordinal(number)} turn {words}: "
            f"write {prefix} directly followed by what {turn.speaker} says there, word for word."
        )
        return RecallTask(context, question, prefix, said, starts[index] / len(context))
    return None


def _requests(turns: Sequence[Turn]) -> dict[str, list[int]]:
    """Request in words -> the turns that it fits, for those that fit 2 to 8 turns."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, turn in enumerate(turns):
        found[f"of {turn.speaker}"].append(index)
        for word in sorted({word.lower() for word in _WORD.findall(turn.text)}):
            found[f'in which {turn.speaker} says the word "{word}"'].append(index)
    return {words: places for words, places in found.items() if MIN_MATCHES <= len(places) <= MAX_MATCHES}


def _askable(turn: Turn) -> bool:
    return len(turn.text.split()) >= _MIN_WORDS and not _UNSPEAKABLE.intersection(turn.text)
