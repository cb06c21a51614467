"""List values: "Libya 989 km; Mali 1,359 km" or "China 37%, Japan 16% (2023)": names, each with a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from stages.synthesis.quantities import Quantity, parse_quantity, plain

MAX_ITEMS = 40
MAX_NAME_CHARACTERS = 60
_JOINTS = " \t-–—:"  # between a name and its number: "Lago Viedma - 1,560 sq km"


@dataclass(frozen=True)
class Item:
    """One entry of a list value; `shown` is its number as the document writes it."""

    name: str
    quantity: Quantity
    shown: str


def parse_list(text: str) -> list[Item] | None:
    """The items, or None if not every part is a name with a number of one common unit."""
    items = []
    for part in _parts(text):
        digit = next((i for i in range(1, len(part)) if part[i].isdigit() and part[i - 1] in " $-"), None)
        if digit is None:
            return None
        cut = digit
        while part[cut - 1] in "$-" and cut > 1:
            cut -= 1
        name, quantity = part[:cut].rstrip(_JOINTS).strip(), parse_quantity(part[cut:])
        if quantity is None or not 1 < len(name) <= MAX_NAME_CHARACTERS or not name[0].isalpha():
            return None
        items.append(Item(name, quantity, part[cut:][quantity.start : quantity.end]))
    if not 2 <= len(items) <= MAX_ITEMS or len({item.quantity.unit for item in items}) != 1:
        return None
    return items


def choose(items: Sequence[Item], by: str, value: str | None = None) -> Item | None:
    """The one item with that number ("value"), the largest ("max") or the smallest ("min"); None if there is a tie."""
    if by == "value":
        wanted = Decimal(value or "nan")
    else:
        wanted = (max if by == "max" else min)(item.quantity.value for item in items)
    matching = [item for item in items if item.quantity.value == wanted]
    return matching[0] if len(matching) == 1 else None


def shown_value(item: Item) -> str:
    """The number of an item as plain text, the form `choose` takes."""
    return plain(item.quantity.value)


def _parts(text: str) -> Iterator[str]:
    """Split at semicolons, or at commas followed by a blank, outside of brackets."""
    separator = ";" if ";" in text else ","
    depth, start = 0, 0
    for position, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif character == separator and depth == 0 and text[position + 1 : position + 2] == " ":
            yield text[start:position].strip()
            start = position + 1
    yield text[start:].strip()
