"""Facts that somebody states, as sentences with a gap: "Sure, my zip code is ____." What fills it is a number, an id or a name.

Where a part of a conversation has no such sentence, a rare word is left out instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.common.turns import Turn
from stages.rewards.rules import normalise
from stages.synthesis.mentions import COMMON, NOT_MENTIONED, can_be_quoted, is_machine, says, telling, words_of
from stages.synthesis.windows import MARKS

GAP = "____"
_SENTENCE = re.compile(r"[^.?!]+(?:[.?!](?!\s|$)[^.?!]*)*[.?!]*")
_MIN_WORDS, _MAX_WORDS = 6, 25
_MAX_FILLING_CHARACTERS = 80
_MIN_ANSWER_CHARACTERS, _MIN_LETTERS = 3, 4
_NUMBER = re.compile(r"(?<![\w#$€£.,:/-])[#$€£]?\w*\d\w*(?:[.,:/-]\w*\d\w*)*%?(?![\w'’-])")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+){0,3}(?![\w'’-])")
_TENS = (
    "ten|eleven|twelve|\\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion"
)
_UNITS = "one|two|three|four|five|six|seven|eight|nine"
_NUMBER_IN_WORDS = re.compile(
    rf"(?<=[a-z,] )(?:(?:{_UNITS})[ -])?(?:{_TENS})(?:[ -](?:and |point )?(?:{_TENS}|{_UNITS}))*(?![\w'’-])"
)
# Mostly a noun: behind an article, a possessive or a preposition, and at the end of a clause or before a small word.
_RARE_WORD = re.compile(
    r"\b(?:an?|the|our|my|your|his|her|their|of|for|in|on|with|by|from|at|into|about) (?P<value>[a-z]{5,})"
    r"(?=[.,;?!]|$| (?:is|are|was|were|and|or|but|in|on|at|for|of|to|with|by|from|that|which|will|can|as|because) )"
)
_ALIKE = 0.5  # of the telling words: a sentence that shares so many may say the same thing


@dataclass(frozen=True)
class Gap:
    """`before + value + after` is a sentence of the turn."""

    turn: Turn
    before: str
    value: str
    after: str

    @property
    def quote(self) -> str:
        return f"{self.before}{GAP}{self.after}"


def gaps_in(turns: Sequence[Turn], *, rare_words: bool) -> list[Gap]:
    """Sentences with one value left out; with a rare word left out where no sentence states a number or a name."""
    found = [gap for pattern in (_NUMBER, _NUMBER_IN_WORDS, _NAME) for gap in _gaps(turns, pattern)]
    return found or (list(_gaps(turns, _RARE_WORD)) if rare_words else [])


def _gaps(turns: Sequence[Turn], pattern: re.Pattern[str]) -> Iterator[Gap]:
    for turn in turns:
        if is_machine(turn.speaker) or not turn.is_one_line:
            continue
        for sentence in _SENTENCE.findall(turn.text):
            said = sentence.strip()
            if not _MIN_WORDS <= len(said.split()) <= _MAX_WORDS or MARKS.intersection(said) or '"' in said:
                continue
            for match in pattern.finditer(said):
                start, end = match.span("value" if "value" in pattern.groupindex else 0)
                before, value, after = said[:start], said[start:end], said[end:]
                if (
                    len(words_of(before)) >= 2
                    and _can_answer(value, before, after)
                    and not says(f"{before} | {after}", value)
                ):
                    yield Gap(turn, before, value, after)


def _can_answer(value: str, before: str, after: str) -> bool:
    """False for scraps, for a part of a longer name, and for two that meet where a sentence begins ("French What else")."""
    beside = [*before.split()[-1:], *after.split()[:1]]
    is_part = value[0].isupper() and any(word.strip("—-–(")[:1].isupper() and word != "I" for word in beside)
    return can_be_covered(value) and COMMON.isdisjoint(words_of(value)) and not is_part


def can_be_covered(value: str) -> bool:
    """False for an answer so short that another one would hold it by chance: answers are scored by cover exact match."""
    plain = normalise(value)
    return len(plain) >= (_MIN_LETTERS if plain.isalpha() else _MIN_ANSWER_CHARACTERS) and plain not in NOT_MENTIONED


def fillings(turns: Sequence[Turn], before: str, after: str) -> list[tuple[Turn, str]]:
    """Every (turn, words) such that the turn says `before`, the words, and `after`, in one line and not far apart."""
    found = []
    for turn in turns:
        at = turn.text.find(before)
        while at >= 0:
            begin = at + len(before)
            line_end = turn.text.find("\n", begin)
            line = turn.text[begin : line_end if line_end >= 0 else len(turn.text)]
            length = line.find(after, 1) if after else len(line)
            is_start = at == 0 or not turn.text[at - 1].isalnum()
            if is_start and 0 < length <= _MAX_FILLING_CHARACTERS:
                found.append((turn, line[:length]))
            at = turn.text.find(before, at + 1)
    return found


def is_said_alike(turns: Sequence[Turn], before: str, after: str) -> bool:
    """True if some turn has half of the telling words of the sentence: it may state the same in other words."""
    wanted = set(telling(words_of(f"{before} {after}")))
    if len(wanted) < 2:
        return True  # too little to tell
    return any(len(wanted.intersection(words_of(turn.text))) >= _ALIKE * len(wanted) for turn in turns)


def is_sound(gap: Gap) -> bool:
    """True if the sentence can be quoted as a question."""
    return can_be_quoted(gap.quote) and bool(gap.before.strip())
