"""abstention: questions of the single_session and knowledge_update forms about what is not said; the answer is "not mentioned".

What is asked for is said elsewhere: in another session of the same window, in another part of the same document, or in another dialogue
of the same folder. So the words, the length and the tone are those of the questions that have an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.records import QAPair
from stages.common.turns import Turn
from stages.synthesis.gaps import fillings, gaps_in, is_said_alike, is_sound
from stages.synthesis.knowledge_update import last_mention_question
from stages.synthesis.memory_asking import Ask, memory_pair
from stages.synthesis.mentions import NOT_MENTIONED, holds, phrases_in
from stages.synthesis.sessions import Session, in_words, session_name
from stages.synthesis.single_session import can_be_asked, gap_question, record_question
from stages.synthesis.tool_records import is_unshown, records_of
from stages.synthesis.windows import Window

_TRIES = 6
_MAX_MENTIONS = 9


def _elsewhere(ask: Ask, *, with_records: bool = False) -> list[Window]:
    """Windows to take the question from: of the same document, if it has others."""
    others = [
        other for other in ask.others if other is not ask.window and (not with_records or _shows_records(other.turns))
    ]
    own = [other for other in others if other.document.id == ask.window.document.id]
    return ask.chance.sample(own or others, min(_TRIES, len(own or others)))


def _shows_records(turns: Sequence[Turn]) -> bool:
    return any(turn.text.startswith(("{", "[")) and 'id":' in turn.text for turn in turns)


def _place(
    ask: Ask, sessions: Sequence[Session]
) -> tuple[str, dict[str, dict[str, str]], Sequence[Turn], Sequence[Turn]]:
    """(where the question looks, the same for the proof, its turns, the window's other turns): one of these sessions, or all."""
    window = ask.window
    if len(window.sessions) > 1 and sessions:
        session = ask.chance.choice(sessions)
        name = session_name(window.sessions, session)
        if name is not None:
            beside = [turn for other in window.sessions if other is not session for turn in other.turns]
            place = f'In "{window.document.title}", take {in_words(name)}, as far as it is given. '
            return place, {"session": name}, session.turns, beside
    return f"{window.part} ", {}, window.turns, ()


def unsaid(ask: Ask) -> QAPair | None:
    """A sentence with a gap that nobody says there."""
    place, scope, turns, beside = _place(ask, ask.window.sessions)
    sources = [beside, *(other.turns for other in _elsewhere(ask))]
    for source in sources:
        for gap in ask.shuffled(gaps_in(source, rare_words=not ask.is_first))[:_TRIES]:
            if (
                not is_sound(gap)
                or fillings(turns, gap.before, gap.after)
                or is_said_alike(turns, gap.before, gap.after)
            ):
                continue
            return memory_pair(
                ask,
                "abstention/gap",
                gap_question(place, gap.quote),
                NOT_MENTIONED,
                ask.window.evidence(turns[0]),
                {"kind": "not_mentioned", "form": "gap", "before": gap.before, "after": gap.after, **scope},
            )
    return None


def unshown(ask: Ask) -> QAPair | None:
    """A field of a record that is not shown there: the record is not, or it has no such field and nobody speaks of it."""
    if not _shows_records(ask.window.turns):
        return None
    place, scope, turns, beside = _place(ask, [one for one in ask.window.sessions if _shows_records(one.turns)])
    own = records_of(turns)
    if not own:
        return None
    for source in [beside, *(other.turns for other in _elsewhere(ask, with_records=True))]:
        foreign = records_of(source)
        if not foreign:
            continue
        asked = [(record.key, record.id, path) for record in foreign for path in record.fields]
        fields = {(record.key, path): None for record in foreign for path in record.fields}
        asked += [
            (one.key, one.id, path) for one in own for key, path in fields if key == one.key and path not in one.fields
        ]
        for key, own_id, path in ask.shuffled(asked)[: 4 * _TRIES]:
            if can_be_asked(key, own_id, path) and is_unshown(turns, own, key, own_id, path):
                return memory_pair(
                    ask,
                    "abstention/record",
                    record_question(place, key, own_id, path),
                    NOT_MENTIONED,
                    ask.window.evidence(turns[0]),
                    {"kind": "not_mentioned", "form": "record", "key": key, "id": own_id, "field": path, **scope},
                )
    return None


def unmentioned(ask: Ask) -> QAPair | None:
    """The last turn with words that no turn has."""
    turns = ask.window.turns
    for other in _elsewhere(ask):
        found = [phrase for phrase, numbers in phrases_in(other.turns).items() if 2 <= len(numbers) <= _MAX_MENTIONS]
        for phrase in ask.shuffled(found)[:_TRIES]:
            if not any(holds(turn.text, phrase) for turn in turns):
                return memory_pair(
                    ask,
                    "abstention/mention",
                    last_mention_question(ask.window.part, phrase),
                    NOT_MENTIONED,
                    ask.window.evidence(turns[0]),
                    {"kind": "not_mentioned", "form": "mention", "phrase": phrase},
                )
    return None
