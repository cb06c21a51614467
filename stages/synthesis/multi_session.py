"""multi_session: what can only be told from several sessions: in how many something is said, in which, how many records there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stages.common.records import AnswerKind, QAPair
from stages.common.turns import Turn
from stages.synthesis.memory_asking import Ask, large_first, memory_pair
from stages.synthesis.mentions import can_be_quoted, is_clear, is_machine, named, phrases_in, quoted, says
from stages.synthesis.tool_records import objects_in, parse_json
from stages.synthesis.windows import askable

_FEWEST_SESSIONS, _FEWEST_TO_COUNT = 3, 4  # of three it would nearly always be two
_FEWEST, _MOST = 2, 9
_MOST_RECORDS = 40
_TRIES = 8
_MAX_ANSWER_WORDS = 15


def count_sessions(ask: Ask) -> QAPair | None:
    """In how many of the sessions a speaker says something."""
    sessions = ask.window.sessions
    if len(sessions) < _FEWEST_TO_COUNT:
        return None
    speakers = [
        speaker for speaker in dict.fromkeys(turn.speaker for turn in ask.window.turns) if not is_machine(speaker)
    ]
    for speaker in ask.shuffled(speakers):
        own = [[turn for turn in session.turns if turn.speaker == speaker] for session in sessions]
        by_count: defaultdict[int, list[str]] = defaultdict(list)
        times: defaultdict[str, int] = defaultdict(int)
        for turns in own:
            for phrase in phrases_in(turns):
                times[phrase] += 1
        for phrase, count in times.items():
            if _FEWEST <= count <= _MOST:
                by_count[count].append(phrase)
        texts = [turn.text for turns in own for turn in turns]
        for count in large_first(ask, by_count):
            phrases = (phrase for phrase in ask.shuffled(by_count[count])[:_TRIES] if is_clear(texts, phrase))
            clear = next(phrases, None)
            if clear is None:
                continue
            said = [turn for turns in own for turn in [_first_saying(turns, clear)] if turn is not None]
            return memory_pair(
                ask,
                "multi_session/count",
                f'{ask.window.part} In how many of them does {named(speaker)} say "{clear}"?',
                str(count),
                ask.window.evidence(*said),
                {"kind": "session_count", "speaker": speaker, "phrase": clear},
                AnswerKind.NUMBER,
            )
    return None


def _first_saying(turns: Sequence[Turn], phrase: str) -> Turn | None:
    return next((turn for turn in turns if says(turn.text, phrase)), None)


def which_session(ask: Ask) -> QAPair | None:
    """How the one session begins in which something is said later on."""
    window = ask.window
    if len(window.sessions) < _FEWEST_SESSIONS:
        return None
    number_of = {turn.start: number for number, session in enumerate(window.sessions) for turn in session.turns}
    found = []
    for phrase, turns in phrases_in(window.turns).items():
        inside = {number_of[window.turns[number].start] for number in turns}
        session = window.sessions[min(inside)]
        # The first session's beginning stands in the question.
        is_later = window.turns[turns[0]].start != session.turns[0].start
        if len(inside) == 1 and min(inside) > 0 and is_later and askable(session.turns[0], _MAX_ANSWER_WORDS):
            found.append((phrase, session, window.turns[turns[0]]))
    for phrase, session, turn in ask.shuffled(found)[:_TRIES]:
        if is_machine(turn.speaker) or not is_clear((other.text for other in window.turns), phrase):
            continue
        return memory_pair(
            ask,
            "multi_session/which",
            f"{window.part} Only one of them has {quoted(phrase)}. What does the first turn of that session "
            "say, word for word?",
            session.turns[0].text,
            window.evidence(session.turns[0], turn),
            {"kind": "session_which", "phrase": phrase},
        )
    return None


def count_records(ask: Ask) -> QAPair | None:
    """How many different values a key of the records has in all sessions together."""
    window = ask.window
    if len(window.sessions) < _FEWEST_SESSIONS - 1:
        return None
    values: defaultdict[str, dict[str, int]] = defaultdict(dict)  # key -> value -> the turn that shows it first
    for number, turn in enumerate(window.turns):
        for thing in objects_in(parse_json(turn.text)):
            for key, value in thing.items():
                if key.endswith("_id") and isinstance(value, str):
                    values[key].setdefault(value, number)
    found = [key for key, seen in values.items() if _FEWEST < len(seen) <= _MOST_RECORDS and can_be_quoted(key)]
    for key in ask.shuffled(found):
        turns = [window.turns[number] for number in sorted(set(values[key].values()))]
        starts = [turn.start for turn in turns]
        spread = sum(any(session.start <= start <= session.end for start in starts) for session in window.sessions)
        if spread < _FEWEST:
            continue
        return memory_pair(
            ask,
            "multi_session/records",
            f'{window.part} How many different values does "{key}" have in the records shown in them?',
            str(len(values[key])),
            window.evidence(*turns),
            {"kind": "record_count", "key": key},
            AnswerKind.NUMBER,
        )
    return None
