"""Re-deriving the answers of dialogue questions from the window of turns that the proof names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from stages.common.records import QAPair, Span
from stages.common.turns import Turn, opening, parse_turns
from stages.synthesis.mentions import says

TextOf = Callable[[Span], str]


def _turns(qa: QAPair, text_of: TextOf) -> list[Turn]:
    return parse_turns(text_of(Span.model_validate(qa.proof["window"])))


def rederive_mrcr(qa: QAPair, text_of: TextOf) -> str | None:
    """The random string and the N-th of the turns that fit the request, if as many fit as the proof says."""
    proof = qa.proof
    fitting = [turn for turn in _turns(qa, text_of) if _fits(turn, proof["speaker"], proof["opening"], proof["word"])]
    number = proof["ordinal"]
    if len(fitting) != proof["needles"] or not 1 <= number <= len(fitting) or proof["prefix"] not in qa.question:
        return None
    return str(proof["prefix"]) + fitting[number - 1].text


def _fits(turn: Turn, speaker: str, begin: str, word: str) -> bool:
    """What is empty is not asked for; a request without anything fits nothing."""
    if not (speaker or begin or word):
        return False
    return (
        (not speaker or turn.speaker == speaker)
        and (not begin or opening(turn.text, 2) == begin)
        and (not word or says(turn.text, word))
    )


def rederive_speaker(qa: QAPair, text_of: TextOf) -> str | None:
    """Who says the quoted words, if one turn does."""
    found = [turn.speaker for turn in _turns(qa, text_of) if turn.text == qa.proof["said"]]
    return found[0] if len(found) == 1 else None


def rederive_reply(qa: QAPair, text_of: TextOf) -> str | None:
    """The turn after the quoted one, if one turn says it."""
    turns = _turns(qa, text_of)
    found = [after.text for turn, after in pairwise(turns) if turn.text == qa.proof["said"]]
    return found[0] if len(found) == 1 else None
