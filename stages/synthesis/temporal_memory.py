"""temporal: what comes before what: the order of turns, the session next to another, the sessions between, who is first."""

from __future__ import annotations

from itertools import permutations

from stages.common.records import AnswerKind, QAPair
from stages.common.turns import Turn
from stages.synthesis.memory_asking import Ask, large_first, memory_pair
from stages.synthesis.mentions import can_be_quoted, is_clear, is_machine, named, phrases_in, quoted, says
from stages.synthesis.windows import askable, is_quotable

_MAX_QUOTED_WORDS, _MAX_ANSWER_WORDS = 15, 15
_FEWEST_ORDERED, _MOST_ORDERED = 3, 5
_FEWEST_SESSIONS, _MOST_BETWEEN = 3, 9
_FEWEST_WITH_A_CHOICE = 5
_FEWEST_SPEAKERS, _MIN_SPEAKER_CHARACTERS = 3, 4
_TRIES = 10


def _quotable(ask: Ask, *, fewest: int) -> list[Turn]:
    """Turns to be quoted, in a random order; looks no further when there are enough."""
    found: list[Turn] = []
    for turn in ask.shuffled(ask.window.turns):
        if askable(turn, _MAX_QUOTED_WORDS) and can_be_quoted(turn.text) and not is_machine(turn.speaker):
            if is_quotable(ask.window, turn):
                found.append(turn)
            if len(found) == fewest:
                break
    return found


def order(ask: Ask) -> QAPair | None:
    """The order in which quoted turns are said."""
    turns = _quotable(ask, fewest=ask.chance.randint(_FEWEST_ORDERED + 1, _MOST_ORDERED))
    in_time = sorted(turns, key=lambda turn: turn.start)
    if len(turns) < _FEWEST_ORDERED + ask.is_first or turns == in_time:
        return None
    listed = "\n".join(f'{number}. "{turn.text}"' for number, turn in enumerate(turns, start=1))
    return memory_pair(
        ask,
        "temporal/order",
        f'In what order are these turns of the conversation "{ask.window.document.title}" said?\n{listed}\n'
        "Answer with their numbers, the earliest first, separated by commas.",
        ", ".join(str(turns.index(turn) + 1) for turn in in_time),
        ask.window.evidence(*in_time),
        {"kind": "said_order", "said": [turn.text for turn in turns]},
    )


def next_session(ask: Ask) -> QAPair | None:
    """How the session right after, or right before, the one with a quoted turn begins."""
    sessions = ask.window.sessions
    if len(sessions) < _FEWEST_SESSIONS:
        return None
    for turn in _quotable(ask, fewest=_TRIES):
        at = next(n for n, session in enumerate(sessions) if session.start <= turn.start <= session.end)
        step = ask.chance.choice([1, -1])
        if not 0 <= at + step < len(sessions):
            continue
        answer = sessions[at + step].turns[0]
        if not askable(answer, _MAX_ANSWER_WORDS):
            continue
        side = "after" if step == 1 else "before"
        return memory_pair(
            ask,
            "temporal/next",
            f'In one session of "{ask.window.document.title}" {named(turn.speaker)} says: "{turn.text}" What does the first turn '
            f"of the session right {side} that one say, word for word?",
            answer.text,
            ask.window.evidence(*sorted([turn, answer], key=lambda found: found.start)),
            {"kind": "session_next", "said": turn.text, "step": step},
        )
    return None


def sessions_between(ask: Ask) -> QAPair | None:
    """How many sessions lie between those of two quoted turns."""
    sessions = ask.window.sessions
    if len(sessions) < _FEWEST_WITH_A_CHOICE:
        return None
    turns = _quotable(ask, fewest=_TRIES)
    at = [
        next(n for n, session in enumerate(sessions) if s.start >= session.start and s.end <= session.end)
        for s in turns
    ]
    by_distance: dict[int, list[tuple[int, int]]] = {}
    for a, b in permutations(range(len(turns)), 2):
        if 2 <= at[b] - at[a] <= _MOST_BETWEEN + 1:
            by_distance.setdefault(at[b] - at[a], []).append((a, b))
    if not by_distance:
        return None
    first, second = ask.chance.choice(by_distance[large_first(ask, by_distance)[0]])
    return memory_pair(
        ask,
        "temporal/between",
        f'In "{ask.window.document.title}", how many sessions lie between the one in which {named(turns[first].speaker)} says: '
        f'"{turns[first].text}" and the one in which {named(turns[second].speaker)} says: "{turns[second].text}"? '
        "Do not count these two.",
        str(at[second] - at[first] - 1),
        ask.window.evidence(turns[first], turns[second]),
        {"kind": "sessions_between", "said": [turns[first].text, turns[second].text]},
        AnswerKind.NUMBER,
    )


def first_to_say(ask: Ask) -> QAPair | None:
    """Who is the first, or the last, of several people to say something."""
    turns = ask.window.turns
    speakers = {turn.speaker for turn in turns}
    if len(speakers) < _FEWEST_SPEAKERS or any(is_machine(turn.speaker) for turn in turns):
        return None
    which = ask.chance.choice(["first", "last"])
    found = []
    for phrase, numbers in phrases_in(turns).items():
        said = [turns[number] for number in numbers]
        turn = said[0] if which == "first" else said[-1]
        is_told = turn.speaker in ask.window.part or any(says(name, phrase) for name in speakers)
        if len({other.speaker for other in said}) >= 2 and len(turn.speaker) >= _MIN_SPEAKER_CHARACTERS and not is_told:
            found.append((phrase, turn))
    for phrase, turn in ask.shuffled(found)[:_TRIES]:
        if not is_clear((other.text for other in turns), phrase):
            continue
        return memory_pair(
            ask,
            "temporal/first",
            f"{ask.window.part} Who is the {which} there to say {quoted(phrase)}?",
            turn.speaker,
            ask.window.evidence(turn),
            {"kind": "first_to_say", "phrase": phrase, "which": which},
        )
    return None
