"""Recall in the MRCR form (Vodrahalli et al. 2024): one of 2, 4 or 8 turns that fit the same request, behind a random string.

- mrcr/speaker: the N-th turn of X;
- mrcr/opening: the N-th turn that begins with certain words ("Can I get ...");
- mrcr/word: the N-th turn in which X says a word; as whole words, and no turn of X holds it inside another one.

The answer is the string and the turn, word for word, scored by rewards.rules.sequence_match_ratio. Turns are counted in the window,
the question names the turn with which the window begins. proof["needles"]: how many turns fit.
"""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from stages.common.records import AnswerKind, QAPair, TaskType
from stages.common.turns import Turn, opening, ordinal
from stages.synthesis.memory_asking import Ask
from stages.synthesis.mentions import is_clear, telling, words_of
from stages.synthesis.pairs import make_pair
from stages.synthesis.windows import FILLERS, Window, askable

NEEDLES = (2, 4, 8)
_TRIES = 20  # requests looked at for each number of needles


def by_speaker(ask: Ask) -> QAPair | None:
    """Prepend a string to the N-th turn of a speaker."""
    found = _draw(ask, _grouped((turn.speaker, turn) for turn in ask.window.turns))
    if found is None:
        return None
    speaker, fitting, turn = found
    return _pair(ask, fitting, turn, "speaker", lambda nth: f"{nth} turn of {speaker} in it", speaker=speaker)


def by_opening(ask: Ask) -> QAPair | None:
    """Prepend a string to the N-th of the turns that begin with the same two words."""
    openings = ((opening(turn.text, 2), turn) for turn in ask.window.turns)
    found = _draw(ask, _grouped((begin, turn) for begin, turn in openings if not FILLERS.issuperset(begin.split())))
    if found is None:
        return None
    begin, fitting, turn = found
    return _pair(
        ask,
        fitting,
        turn,
        "opening",
        lambda nth: f'{nth} turn in it that begins with the words "{begin}"',
        opening=begin,
    )


def by_word(ask: Ask) -> QAPair | None:
    """Prepend a string to the N-th turn in which a speaker says a word."""
    said = (
        (f"{turn.speaker}\n{word}", turn)
        for turn in ask.window.turns
        for word in dict.fromkeys(telling(words_of(turn.text)))
    )
    found = _draw(ask, _grouped(said), _is_clear_word)
    if found is None:
        return None
    key, fitting, turn = found
    speaker, _, word = key.partition("\n")
    return _pair(
        ask,
        fitting,
        turn,
        "word",
        lambda nth: f'{nth} turn in it in which {speaker} says the word "{word}"',
        speaker=speaker,
        word=word,
    )


def _grouped(items: Iterable[tuple[str, Turn]]) -> dict[str, list[Turn]]:
    found: defaultdict[str, list[Turn]] = defaultdict(list)
    for key, turn in items:
        found[key].append(turn)
    return found


def _is_clear_word(window: Window, key: str) -> bool:
    speaker, _, word = key.partition("\n")
    return is_clear((turn.text for turn in window.turns if turn.speaker == speaker), word)


def _is_clear_already(window: Window, key: str) -> bool:
    del window, key
    return True


def _draw(
    ask: Ask, groups: Mapping[str, Sequence[Turn]], is_clear_request: Callable[[Window, str], bool] = _is_clear_already
) -> tuple[str, Sequence[Turn], Turn] | None:
    """A request that 2, 4 or 8 turns fit, those turns, and one of them. The most first: few windows hold so many."""
    for needles in reversed(NEEDLES):
        keys = [key for key, turns in groups.items() if len(turns) == needles]
        for key in ask.shuffled(keys)[:_TRIES]:
            gold = [turn for turn in groups[key] if turn is not ask.window.turns[0] and askable(turn)]
            if gold and is_clear_request(ask.window, key):
                return key, groups[key], ask.chance.choice(gold)
    return None


def _pair(
    ask: Ask, fitting: Sequence[Turn], turn: Turn, family: str, request: Callable[[str], str], **told: str
) -> QAPair:
    """`request`: what is asked for, given the ordinal; `told`: what the proof says of it."""
    window, prefix = ask.window, _prefix(ask.chance)
    number = fitting.index(turn) + 1
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f"{window.part} Prepend {prefix} to the {request(ordinal(number))}: "
        f"write {prefix} directly followed by that turn's text, without the speaker's name.",
        answer=prefix + turn.text,
        answer_kind=AnswerKind.SEQUENCE,
        evidence=window.evidence(turn),
        proof={
            "kind": "mrcr",
            "prefix": prefix,
            "needles": len(fitting),
            "ordinal": number,
            "speaker": told.get("speaker", ""),
            "opening": told.get("opening", ""),
            "word": told.get("word", ""),
            "window": window.span,
        },
        generator=f"dialogue_memory/mrcr_{family}",
        seed=ask.seed,
    )


def _prefix(chance: random.Random) -> str:
    """MRCR's random string. A letter first, so that it never looks like an ordinal."""
    rest = chance.choices(string.ascii_letters + string.digits, k=chance.randint(9, 11))
    return chance.choice(string.ascii_letters) + "".join(rest)
