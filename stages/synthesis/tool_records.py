"""Records in a conversation: JSON objects that a tool's turn shows, with their identity and their values as written.

{"order_id": "#W1", "status": "pending", "address": {"zip": "85034"}} is the record ("order_id", "#W1") with the fields
{"status": "pending", "address.zip": "85034"}. An object inside another one that has an identity itself is a record of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.turns import Turn
from stages.synthesis.mentions import holds

_MAX_CHARACTERS, _MAX_DEPTH = 200_000, 8

Values = dict[
    str, list[tuple[Turn, bool]]
]  # value -> the turns that show it; True: in a record that is all of the turn


@dataclass(frozen=True)
class Record:
    """is_whole: the turn shows this record and nothing else."""

    key: str
    id: str
    fields: dict[str, str]
    is_whole: bool


def parse_json(text: str) -> Any:
    """A turn's JSON object or list, numbers as they are written; None for anything else.

    A key twice in one object, NaN, or deep nesting: None, for what it says cannot be told.
    """
    if not text.startswith(("{", "[")) or len(text) > _MAX_CHARACTERS:
        return None
    try:
        value = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=_refuse, object_pairs_hook=_object_without_repeats
        )
    except (ValueError, RecursionError):
        return None
    return None if _is_deeper_than(value, _MAX_DEPTH) else value


def _is_deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper_than(item, levels - 1) for item in inner)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON value, outer ones first."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from objects_in(item)


def records_in(text: str) -> list[Record]:
    """The records of a turn; none if it is no JSON."""
    value = parse_json(text)
    found = []
    for thing in objects_in(value):
        key = identity_key(thing)
        if key is not None:
            found.append(Record(key, thing[key], dict(_fields(thing, key)), thing is value))
    return found


def identity_key(thing: dict[str, Any]) -> str | None:
    """The key that names an object: `id` or `item_id`, else the first that ends with `_id`."""
    keys = [key for key in thing if (key == "id" or key.endswith("_id")) and isinstance(thing[key], str) and thing[key]]
    return next((key for key in ("id", "item_id") if key in keys), keys[0] if keys else None)


def _fields(thing: dict[str, Any], identity: str, above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in thing.items():
        if isinstance(value, str) and key != identity:
            yield f"{above}{key}", value
        elif isinstance(value, dict) and identity_key(value) is None:
            yield from _fields(value, "", f"{above}{key}.")


def records_of(turns: Sequence[Turn]) -> list[Record]:
    """The records of all turns, in order."""
    return [record for turn in turns for record in records_in(turn.text)]


def record_values(turns: Sequence[Turn]) -> dict[tuple[str, str, str], Values]:
    """(key, id, field) -> its values in the order in which they come up."""
    found: defaultdict[tuple[str, str, str], Values] = defaultdict(dict)
    for turn in turns:
        for record in records_in(turn.text):
            for path, value in record.fields.items():
                found[record.key, record.id, path].setdefault(value, []).append((turn, record.is_whole))
    return dict(found)


def is_unshown(turns: Sequence[Turn], records: Sequence[Record], key: str, own_id: str, path: str) -> bool:
    """True if no turn names the record, or no turn names the field, and the record has no such field."""
    if any((record.key, record.id) == (key, own_id) and path in record.fields for record in records):
        return False
    name = path.rpartition(".")[2]
    return not any(own_id in turn.text for turn in turns) or not any(holds(turn.text, name) for turn in turns)


def field_words(path: str) -> str:
    """`address.zip` -> "zip" of the "address"."""
    *above, name = path.split(".")
    return " of the ".join(f'"{part}"' for part in [name, *reversed(above)])


def is_readable(turns: Sequence[Turn], own_id: str) -> bool:
    """False if a turn that names the record begins like JSON but cannot be read: it may show any value."""
    return not any(
        own_id in turn.text and turn.text.startswith(("{", "[")) and parse_json(turn.text) is None for turn in turns
    )
