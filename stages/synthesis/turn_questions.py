"""Questions about single turns: the MRCR form, who said something, what was answered.

- mrcr/speaker: "prepend <random string> to the 2nd turn of X": the answer is the string and the turn, word for word;
- mrcr/opening: the same for the N-th turn that begins with certain words ("Can I get ..."), repeated requests as in MRCR;
- who_said, reply: who said a quoted sentence; what was answered to it.

Turns are counted in the window; the question says so and names the turn with which the window begins.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from itertools import pairwise

from stages.common.records import AnswerKind, QAPair, TaskType
from stages.common.turns import opening, ordinal
from stages.synthesis.memory_asking import Ask
from stages.synthesis.pairs import make_pair
from stages.synthesis.windows import FILLERS, askable, is_quotable


def _prefix(chance: random.Random) -> str:
    """MRCR's random string. A letter first, so that it never looks like an ordinal."""
    rest = chance.choices(string.ascii_letters + string.digits, k=chance.randint(9, 11))
    return chance.choice(string.ascii_letters) + "".join(rest)


def by_speaker(ask: Ask) -> QAPair | None:
    """Prepend a string to the N-th turn of a speaker."""
    window, chance = ask.window, ask.chance
    times = Counter(turn.speaker for turn in window.turns)
    gold = [turn for turn in window.turns[1:] if times[turn.speaker] >= 2 and askable(turn)]
    if not gold:
        return None
    turn = chance.choice(gold)
    same = [other for other in window.turns if other.speaker == turn.speaker]
    number, prefix = same.index(turn) + 1, _prefix(chance)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f"{window.part} Prepend {prefix} to the {ordinal(number)} turn of "
        f"{turn.speaker} in it: write {prefix} directly followed by what {turn.speaker} says there.",
        answer=prefix + turn.text,
        answer_kind=AnswerKind.SEQUENCE,
        evidence=window.evidence(turn),
        proof={
            "kind": "mrcr",
            "prefix": prefix,
            "ordinal": number,
            "speaker": turn.speaker,
            "opening": "",
            "window": window.span,
        },
        generator="dialogue_memory/mrcr_speaker",
        seed=ask.seed,
    )


def by_opening(ask: Ask) -> QAPair | None:
    """Prepend a string to the N-th turn that begins with the same two words as another one."""
    window, chance = ask.window, ask.chance
    times = Counter(opening(turn.text, 2) for turn in window.turns)
    gold = [
        turn
        for turn in window.turns[1:]
        if askable(turn) and times[opening(turn.text, 2)] >= 2 and not FILLERS.issuperset(opening(turn.text, 2).split())
    ]
    if not gold:
        return None
    turn = chance.choice(gold)
    begin = opening(turn.text, 2)
    same = [other for other in window.turns if opening(other.text, 2) == begin]
    number, prefix = same.index(turn) + 1, _prefix(chance)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'{window.part} Several turns in it begin with the words "{begin}". '
        f"Prepend {prefix} to the {ordinal(number)} of them: write {prefix} directly followed by that turn's text, "
        "without the speaker's name.",
        answer=prefix + turn.text,
        answer_kind=AnswerKind.SEQUENCE,
        evidence=window.evidence(turn),
        proof={
            "kind": "mrcr",
            "prefix": prefix,
            "ordinal": number,
            "speaker": "",
            "opening": begin,
            "window": window.span,
        },
        generator="dialogue_memory/mrcr_opening",
        seed=ask.seed,
    )


def who_said(ask: Ask) -> QAPair | None:
    """Whose turn a quoted one is, where at least three people speak."""
    window, chance = ask.window, ask.chance
    speakers = {turn.speaker for turn in window.turns}
    gold = [turn for turn in window.turns if askable(turn) and is_quotable(window, turn)]
    gold = [turn for turn in gold if len(turn.speaker) >= 4 and turn.speaker.lower() not in turn.text.lower()]
    if len(speakers) < 3 or not gold:
        return None
    turn = chance.choice(gold)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'In the conversation "{window.document.title}", who says: "{turn.text}"?',
        answer=turn.speaker,
        answer_kind=AnswerKind.TEXT,
        evidence=window.evidence(turn),
        proof={"kind": "speaker_of", "said": turn.text, "window": window.around(turn)},
        generator="dialogue_memory/who_said",
        seed=ask.seed,
    )


def reply(ask: Ask) -> QAPair | None:
    """What the next turn after a quoted one says."""
    window, chance = ask.window, ask.chance
    couples = [
        (turn, reply)
        for turn, reply in pairwise(window.turns)
        if turn.speaker != reply.speaker
        and is_quotable(window, turn)
        and askable(turn)
        and askable(reply)
        and len(reply.text.split()) <= 15
        and reply.text.lower() not in turn.text.lower()
        and "\n#" not in window.document.text[turn.end : reply.start]  # another conversation begins there
    ]
    if not couples:
        return None
    turn, reply = chance.choice(couples)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'In the conversation "{window.document.title}", {turn.speaker} says: "{turn.text}" '
        f"What does {reply.speaker} say right after that, word for word?",
        answer=reply.text,
        answer_kind=AnswerKind.TEXT,
        evidence=window.evidence(turn, reply),
        proof={"kind": "reply_to", "said": turn.text, "window": window.around(turn)},
        generator="dialogue_memory/reply",
        seed=ask.seed,
    )
