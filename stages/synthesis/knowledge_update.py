"""knowledge_update: what is said of something for the last time: a record that changes, a word that returns, a correction."""

from __future__ import annotations

from stages.common.records import QAPair
from stages.synthesis.memory_asking import Ask, memory_pair
from stages.synthesis.mentions import OR_NOT_MENTIONED, can_be_quoted, is_clear, is_machine, phrases_in, quoted, says
from stages.synthesis.sessions import in_words, session_name
from stages.synthesis.single_session import can_be_answer, can_be_asked
from stages.synthesis.tool_records import field_words, record_values
from stages.synthesis.windows import askable

_MAX_ANSWER_WORDS = 15
_MAX_MENTIONS = 9
_TRIES = 12
_CORRECTIONS = ("actually", "instead", "i meant", "change it", "make that", "make it")


def record_update_question(part: str, key: str, own_id: str, path: str, which: str) -> str:
    """The question for the first or last value of a field."""
    return (
        f'{part} What is the {field_words(path)} in the record with the {key} "{own_id}" when it is shown there for the '
        f"{which} time? {OR_NOT_MENTIONED}"
    )


def last_mention_question(part: str, phrase: str) -> str:
    """The question for the last turn that says something."""
    return (
        f"{part} Which turn there is the last that has {quoted(phrase)}? Write what it says, word for word, "
        f"without the speaker's name. {OR_NOT_MENTIONED}"
    )


def record_change(ask: Ask) -> QAPair | None:
    """The first or last value of a field that has changed and not changed back."""
    found = []
    for (key, own_id, path), seen in record_values(ask.window.turns).items():
        places = [(turn.start, value) for value, shown in seen.items() for turn, _ in shown]
        runs = [value for _, value in sorted(places)]
        changes = [value for number, value in enumerate(runs) if number == 0 or runs[number - 1] != value]
        # Only records that are all of their turn are the same thing each time; an inner id may stand for a kind of goods.
        is_whole = all(whole for shown in seen.values() for _, whole in shown)
        if is_whole and len(seen) == len(changes) >= 2 and len({start for start, _ in places}) == len(places):
            found.append((key, own_id, path, changes, seen))
    for key, own_id, path, changes, seen in ask.shuffled(found):
        which = ask.chance.choice(["last", "last", "first"])
        value = changes[-1] if which == "last" else changes[0]
        if not can_be_answer(value) or not can_be_asked(key, own_id, path):
            continue
        turns = [seen[changes[0]][0][0], seen[changes[-1]][-1][0]]
        return memory_pair(
            ask,
            "knowledge_update/record",
            record_update_question(ask.window.part, key, own_id, path, which),
            value,
            ask.window.evidence(*turns),
            {"kind": "record_change", "key": key, "id": own_id, "field": path, "which": which},
        )
    return None


def last_mention(ask: Ask) -> QAPair | None:
    """The last of several turns that have a word or two."""
    turns = ask.window.turns
    found = [
        (phrase, numbers)
        for phrase, numbers in phrases_in(turns).items()
        if 2 <= len(numbers) <= _MAX_MENTIONS and askable(turns[numbers[-1]], _MAX_ANSWER_WORDS)
    ]
    for phrase, numbers in ask.shuffled(found)[:_TRIES]:
        last = turns[numbers[-1]]
        if is_machine(last.speaker) or not is_clear((turn.text for turn in turns), phrase):
            continue
        return memory_pair(
            ask,
            "knowledge_update/mention",
            last_mention_question(ask.window.part, phrase),
            last.text,
            ask.window.evidence(*(turns[number] for number in numbers)),
            {"kind": "last_mention", "phrase": phrase},
        )
    return None


def correction(ask: Ask) -> QAPair | None:
    """What a speaker who has opened a session says later in it with "actually", "instead", ...: an order that changes."""
    sessions = ask.window.sessions
    if ask.window.start == ask.window.turns[0].start:
        return None  # a part of a session, or one without a heading
    found = []
    for session in sessions:
        first = session.turns[0]
        later = [turn for turn in session.turns[1:] if turn.speaker == first.speaker]
        for cue in _CORRECTIONS:
            cued = [turn for turn in later if says(turn.text, cue)]
            if len(cued) == 1 and askable(cued[0], _MAX_ANSWER_WORDS) and not says(first.text, cue):
                found.append((session, cue, cued[0]))
    for session, cue, turn in ask.shuffled(found):
        name = session_name(sessions, session)
        if name is None or not can_be_quoted(session.turns[0].line):
            continue
        return memory_pair(
            ask,
            "knowledge_update/correction",
            f'In "{ask.window.document.title}", take {in_words(name)}. The speaker who opens it says "{cue}" in one later '
            f"turn. What does this turn say, word for word?",
            turn.text,
            ask.window.evidence(session.turns[0], turn),
            {"kind": "correction", "cue": cue, "session": name},
        )
    return None
