"""single_session: a fact that one conversation states: a sentence with a gap, a field of a record that a tool shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stages.common.records import QAPair
from stages.common.turns import Turn
from stages.rewards.rules import normalise
from stages.synthesis.gaps import can_be_covered, fillings, gaps_in, is_sound
from stages.synthesis.memory_asking import Ask, memory_pair, session_of
from stages.synthesis.mentions import OR_NOT_MENTIONED, can_be_quoted
from stages.synthesis.sessions import in_words
from stages.synthesis.tool_records import field_words, record_values
from stages.synthesis.windows import MARKS

_TRIES = 6
_MAX_CHARACTERS = 60
_EMPTY_VALUES = frozenset({"none", "null", "nan", "n/a", "unknown", "false", "true", "000", "100"})


def where(ask: Ask, turn: Turn) -> tuple[str, dict[str, dict[str, str]], Sequence[Turn]]:
    """(where the question looks, the same for the proof, the turns there): the turn's session if it can be named."""
    named = session_of(ask, turn)
    if named is None:
        return f"{ask.window.part} ", {}, ask.window.turns
    name, turns = named
    return f'In "{ask.window.document.title}", take {in_words(name)}, as far as it is given. ', {"session": name}, turns


def gap_question(place: str, quote: str) -> str:
    """The question for what fills the gap of a sentence."""
    return f'{place}Somebody says there: "{quote}" What stands in the gap? {OR_NOT_MENTIONED}'


def record_question(place: str, key: str, own_id: str, path: str) -> str:
    """The question for a field of a record."""
    return f'{place}What is the {field_words(path)} in the record shown there with the {key} "{own_id}"? {OR_NOT_MENTIONED}'


def said(ask: Ask) -> QAPair | None:
    """What fills the gap in a sentence that one turn says."""
    for gap in ask.shuffled(gaps_in(ask.window.turns, rare_words=not ask.is_first))[:_TRIES]:
        place, scope, turns = where(ask, gap.turn)
        if is_sound(gap) and len(fillings(turns, gap.before, gap.after)) == 1:
            return memory_pair(
                ask,
                "single_session/gap",
                gap_question(place, gap.quote),
                gap.value,
                ask.window.evidence(gap.turn),
                {"kind": "gap", "before": gap.before, "after": gap.after, **scope},
            )
    return None


def shown(ask: Ask) -> QAPair | None:
    """A field of a record, where all that is shown of this record gives one value."""
    values = record_values(ask.window.turns)
    if not values:
        return None
    different: defaultdict[str, set[str]] = defaultdict(set)
    for (_, _, path), seen in values.items():
        different[path].update(seen)
    for (key, own_id, path), seen in ask.shuffled(list(values.items()))[: 4 * _TRIES]:
        value = next(iter(seen))
        # What all records say alike ("country": "USA") needs no looking up.
        if (
            len(seen) != 1
            or value.lower() in own_id.lower()
            or len(different[path]) < 2
            or not can_be_answer(value)
            or not can_be_asked(key, own_id, path)
        ):
            continue
        turn = seen[value][0][0]
        place, scope, _ = where(ask, turn)
        return memory_pair(
            ask,
            "single_session/record",
            record_question(place, key, own_id, path),
            value,
            ask.window.evidence(turn),
            {"kind": "record_value", "key": key, "id": own_id, "field": path, **scope},
        )
    return None


def can_be_answer(value: str) -> bool:
    """True for a value that is neither trivial nor so short that another answer covers it."""
    plain = normalise(value)
    return (
        can_be_covered(value)
        and len(value) <= _MAX_CHARACTERS
        and value == value.strip()
        and plain not in _EMPTY_VALUES
        and "\n" not in value
        and not MARKS.intersection(value)
    )


def can_be_asked(*names: str) -> bool:
    """True for keys, ids and fields that a question can name."""
    return all(0 < len(name) <= _MAX_CHARACTERS and can_be_quoted(name) for name in names)
