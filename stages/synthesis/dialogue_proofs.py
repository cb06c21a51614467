"""Re-deriving the answers of dialogue questions from the window of turns that the proof names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from stages.common.records import QAPair, Span
from stages.common.turns import Turn, opening, parse_turns

TextOf = Callable[[Span], str]


def _turns(qa: QAPair, text_of: TextOf) -> list[Turn]:
    return parse_turns(text_of(Span.model_validate(qa.proof["window"])))


def rederive_mrcr(qa: QAPair, text_of: TextOf) -> str | None:
    """The random string and the N-th turn of the speaker, or that begins with the given words."""
    speaker, begin = qa.proof["speaker"], qa.proof["opening"]
    same = [
        turn for turn in _turns(qa, text_of) if (turn.speaker == speaker if speaker else opening(turn.text, 2) == begin)
    ]
    number = qa.proof["ordinal"]
    if not 1 <= number <= len(same) or qa.proof["prefix"] not in qa.question:
        return None
    return str(qa.proof["prefix"]) + same[number - 1].text


def rederive_speaker(qa: QAPair, text_of: TextOf) -> str | None:
    """Who says the quoted words, if one turn does."""
    found = [turn.speaker for turn in _turns(qa, text_of) if turn.text == qa.proof["said"]]
    return found[0] if len(found) == 1 else None


def rederive_reply(qa: QAPair, text_of: TextOf) -> str | None:
    """The turn after the quoted one, if one turn says it."""
    turns = _turns(qa, text_of)
    found = [after.text for turn, after in pairwise(turns) if turn.text == qa.proof["said"]]
    return found[0] if len(found) == 1 else None
