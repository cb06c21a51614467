"""Re-deriving the answers of memory questions from the window that the proof names: one function per kind of proof.

What a proof looks for (a phrase, a quoted turn, a record) must be what the question asks for, else it proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stages.common.records import QAPair, Span
from stages.common.turns import Turn
from stages.synthesis.gaps import GAP, fillings, is_said_alike
from stages.synthesis.mentions import NOT_MENTIONED, OR_NOT_MENTIONED, holds, is_clear, named, quoted, says
from stages.synthesis.sessions import Session, in_words, session_named, sessions_of
from stages.synthesis.tool_records import (
    field_words,
    is_readable,
    is_unshown,
    objects_in,
    parse_json,
    record_values,
    records_of,
)

TextOf = Callable[[Span], str]


def _sessions(qa: QAPair, text_of: TextOf) -> list[Session]:
    return sessions_of(text_of(Span.model_validate(qa.proof["window"])))


def _turns(qa: QAPair, text_of: TextOf) -> list[Turn]:
    return [turn for session in _sessions(qa, text_of) for turn in session.turns]


def _scope(qa: QAPair, text_of: TextOf) -> Sequence[Turn]:
    """The turns of the session that the question names, or of the whole window."""
    name = qa.proof.get("session")
    if name is None:
        return _turns(qa, text_of)
    if not isinstance(name, dict):
        raise TypeError("a session is named by {heading} or {opening}")
    session = session_named(_sessions(qa, text_of), name)
    if session is None or in_words(name) not in qa.question:
        raise ValueError("no such session")
    return session.turns


def _asks(qa: QAPair, *words: str) -> bool:
    """True if the question quotes all of these."""
    return all(f'"{word}"' in qa.question for word in words)


def _said(qa: QAPair, *names: str) -> list[str]:
    """Entries of the proof that are text. TypeError if one is not."""
    found = [qa.proof[name] for name in names]
    if not all(isinstance(value, str) for value in found):
        raise TypeError(f"{names} must be text")
    return found


def rederive_gap(qa: QAPair, text_of: TextOf) -> str | None:
    """What stands between the two parts of the sentence, if one turn says it."""
    before, after = _said(qa, "before", "after")
    found = fillings(_scope(qa, text_of), before, after)
    return found[0][1] if len(found) == 1 and _asks(qa, f"{before}{GAP}{after}") else None


def rederive_record_value(qa: QAPair, text_of: TextOf) -> str | None:
    """The field of the record, if it has one value wherever it is shown."""
    key, own_id, path = _said(qa, "key", "id", "field")
    turns = _scope(qa, text_of)
    seen = record_values(turns).get((key, own_id, path), {})
    is_sound = len(seen) == 1 and is_readable(turns, own_id) and _asks_record(qa, key, own_id, path)
    return next(iter(seen)) if is_sound else None


def _asks_record(qa: QAPair, key: str, own_id: str, path: str) -> bool:
    return f'with the {key} "{own_id}"' in qa.question and field_words(path) in qa.question


def rederive_record_change(qa: QAPair, text_of: TextOf) -> str | None:
    """The field's first or last value, if no value comes back after a change."""
    key, own_id, path, which = _said(qa, "key", "id", "field", "which")
    values: list[str] = []
    turns = _turns(qa, text_of)
    for turn in turns:
        shown = record_values([turn]).get((key, own_id, path), {})
        if len(shown) > 1 or not all(is_whole for places in shown.values() for _, is_whole in places):
            return None  # an id inside another record may stand for a kind of goods
        values += [value for value in shown if values[-1:] != [value]]
    if len(values) < 2 or len(set(values)) != len(values) or which not in ("first", "last"):
        return None
    if not is_readable(turns, own_id):
        return None
    asked = _asks_record(qa, key, own_id, path) and f"for the {which} time" in qa.question
    return values[0 if which == "first" else -1] if asked else None


def rederive_last_mention(qa: QAPair, text_of: TextOf) -> str | None:
    """The last of at least two turns that say the phrase."""
    turns, (phrase,) = _turns(qa, text_of), _said(qa, "phrase")
    found = [turn.text for turn in turns if says(turn.text, phrase)]
    is_sound = len(found) >= 2 and is_clear((turn.text for turn in turns), phrase) and _asks(qa, phrase)
    return found[-1] if is_sound else None


def rederive_correction(qa: QAPair, text_of: TextOf) -> str | None:
    """The one later turn of the speaker who opens the session that has the cue."""
    first, *later = _scope(qa, text_of)
    (cue,) = _said(qa, "cue")
    found = [turn.text for turn in later if turn.speaker == first.speaker and says(turn.text, cue)]
    return found[0] if len(found) == 1 and _asks(qa, cue) else None


def rederive_session_count(qa: QAPair, text_of: TextOf) -> str | None:
    """In how many sessions the speaker says the phrase."""
    speaker, phrase = _said(qa, "speaker", "phrase")
    own = [[turn.text for turn in found.turns if turn.speaker == speaker] for found in _sessions(qa, text_of)]
    if not is_clear((text for texts in own for text in texts), phrase):
        return None
    asked = f'does {named(speaker)} say "{phrase}"' in qa.question
    return str(sum(any(says(text, phrase) for text in texts) for texts in own)) if asked else None


def rederive_session_which(qa: QAPair, text_of: TextOf) -> str | None:
    """The first turn of the one session in which the phrase is said."""
    sessions, (phrase,) = _sessions(qa, text_of), _said(qa, "phrase")
    if not is_clear((turn.text for found in sessions for turn in found.turns), phrase) or not _asks(qa, phrase):
        return None
    inside = [found for found in sessions if any(says(turn.text, phrase) for turn in found.turns)]
    return inside[0].turns[0].text if len(inside) == 1 else None


def rederive_record_count(qa: QAPair, text_of: TextOf) -> str | None:
    """How many different values a key has, if every turn that has the key can be read."""
    (key,), values = _said(qa, "key"), set()
    for turn in _turns(qa, text_of):
        value = parse_json(turn.text)
        if value is None and f'"{key}"' in turn.text:
            return None
        values |= {thing[key] for thing in objects_in(value) if isinstance(thing.get(key), str)}
    return str(len(values)) if values and _asks(qa, key) else None


def rederive_said_order(qa: QAPair, text_of: TextOf) -> str | None:
    """The numbers of the quoted turns in the order in which they are said."""
    said, turns = qa.proof["said"], [turn.text for turn in _turns(qa, text_of)]
    listed = "\n".join(f'{number}. "{text}"' for number, text in enumerate(said, start=1))
    if any(turns.count(text) != 1 for text in said) or listed not in qa.question:
        return None
    return ", ".join(str(said.index(text) + 1) for text in sorted(said, key=turns.index))


def _session_saying(sessions: Sequence[Session], said: str) -> int | None:
    """The number of the one session in which one turn says just this."""
    found = [number for number, session in enumerate(sessions) for turn in session.turns if turn.text == said]
    return found[0] if len(found) == 1 else None


def rederive_session_next(qa: QAPair, text_of: TextOf) -> str | None:
    """The first turn of the session one step after or before the one with the quoted turn."""
    sessions, step = _sessions(qa, text_of), qa.proof["step"]
    at = _session_saying(sessions, qa.proof["said"])
    side = {1: "right after", -1: "right before"}[step]
    if at is None or not 0 <= at + step < len(sessions) or side not in qa.question or not _asks(qa, qa.proof["said"]):
        return None
    return sessions[at + step].turns[0].text


def rederive_sessions_between(qa: QAPair, text_of: TextOf) -> str | None:
    """How many sessions lie between the two quoted turns' sessions."""
    sessions = _sessions(qa, text_of)
    first, second = (_session_saying(sessions, said) for said in qa.proof["said"])
    if first is None or second is None or second <= first or not _asks(qa, *qa.proof["said"]):
        return None
    return str(second - first - 1)


def rederive_first_to_say(qa: QAPair, text_of: TextOf) -> str | None:
    """The speaker of the first or last turn that says the phrase."""
    turns, (phrase, which) = _turns(qa, text_of), _said(qa, "phrase", "which")
    found = [turn.speaker for turn in turns if says(turn.text, phrase)]
    asked = f"Who is the {which} there to say {quoted(phrase)}?" in qa.question and which in ("first", "last")
    if len(set(found)) < 2 or not asked or not is_clear((turn.text for turn in turns), phrase):
        return None
    return found[0 if which == "first" else -1]


def rederive_absence(qa: QAPair, text_of: TextOf) -> str | None:
    """The words "not mentioned", if nothing in the part that is asked about says, or may say, what is asked for."""
    turns = _scope(qa, text_of)
    if not turns or OR_NOT_MENTIONED not in qa.question:
        return None
    if qa.proof["form"] == "gap":
        before, after = _said(qa, "before", "after")
        is_there = bool(fillings(turns, before, after)) or is_said_alike(turns, before, after)
        asked = _asks(qa, f"{before}{GAP}{after}")
    elif qa.proof["form"] == "record":
        key, own_id, path = _said(qa, "key", "id", "field")
        is_there = not is_unshown(turns, records_of(turns), key, own_id, path)
        asked = _asks_record(qa, key, own_id, path)
    else:
        (phrase,) = _said(qa, "phrase")
        is_there = any(holds(turn.text, phrase) for turn in turns)
        asked = _asks(qa, phrase)
    return NOT_MENTIONED if asked and not is_there else None
