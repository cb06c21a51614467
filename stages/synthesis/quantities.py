"""Numbers as documents write them: "6,734 km", "$ 1,234", "(1,234)", "12.5%", "-$34.4 billion (2024 est.)", "EUR 5 million".

A value is accepted only if its first number is clearly the value: what follows may be a unit and remarks in brackets,
nothing else. "32,606 km (2022) 3,448 km electrified" and "5 July 1962" are refused: a wrong gold answer costs more
than a question lost. All patterns are linear and texts are bounded, since documents are untrusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from stages.synthesis.currencies import CODES, CURRENCIES, MARK_PATTERN

MAX_VALUE_CHARACTERS = 300
MAX_UNIT_CHARACTERS = 48
MAX_UNIT_WORDS = 7

_NUMBER = re.compile(
    rf"(?P<sign>[-−–])? ?(?P<currency>{MARK_PATTERN})? ?(?P<inner_sign>[-−–])?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3}){1,6}(?![0-9,])|[0-9]{1,18}(?![0-9,]))(?P<decimals>\.[0-9]{1,8}(?![0-9.]))?"
)
_MARK_BEFORE_BRACKET = re.compile(rf"({MARK_PATTERN})\(")
_PER_THOUSANDS = re.compile(r"/[0-9]{1,3}(?:,[0-9]{3}){0,3}(?![0-9,])")
_LETTER_DIGIT = re.compile(r"(?<=[A-Za-z])[0-9]")  # CO2, m3
_UNIT_REFUSED = re.compile(r"[0-9,;:|=\[\]{}<>\"]|\b(?:or|and|to|but|of age)\b")
_CELL_CORE = re.compile(r"(?P<open>\()? ?(?P<core>[^()]{1,40}?) ?(?P<close>\))? ?(?P<percent>%)?")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit. `start`, `end`: the number and its unit within the text that was parsed.

    "$1.5 billion (2024 est.)" -> value 1.5, unit "billion dollars", span of "$1.5 billion"
    """

    value: Decimal
    unit: str
    start: int
    end: int


def plain(value: Decimal) -> str:
    """A decimal as plain text: no exponent, no trailing zeros, no negative zero.

    >>> plain(Decimal("6734.500"))
    '6734.5'
    """
    if value == 0:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_quantity(text: str) -> Quantity | None:
    """The quantity that a value text begins with, or None if its first number is not clearly the value."""
    if len(text) > MAX_VALUE_CHARACTERS:
        return None
    lead = len(text) - len(text.lstrip())
    match = _NUMBER.match(text, lead)
    if match is None or (value := _value_of(match)) is None:
        return None
    rest = text[match.end() :]
    if rest and not rest[0].isspace() and rest[0] != "%":
        return None
    unit_text, remarks = _split_remarks(rest)
    unit = " ".join(unit_text.split())
    if not _only_brackets(remarks) or not _is_unit(unit):
        return None
    if match["currency"]:
        unit = f"{unit} {CURRENCIES[match['currency']]}".strip()
    elif unit.rpartition(" ")[2] in CODES:  # "5 million EUR"
        magnitude, _, code = unit.rpartition(" ")
        unit = f"{magnitude} {CURRENCIES[code]}".strip()
    if not unit and _looks_like_year(match):
        return None
    return Quantity(value, unit, lead, match.end() + len(unit_text.rstrip()))


def parse_cell(text: str) -> Quantity | None:
    """The quantity of a table cell. Brackets mean a negative number: "(1,234)" -> -1234, "(4)%" -> -4 %."""
    cell = text.strip()
    if not cell or len(cell) > MAX_VALUE_CHARACTERS:
        return None
    # "$(1,234)" is written "($1,234)" to read both alike.
    marked = _MARK_BEFORE_BRACKET.match(cell)
    inner = f"({marked[1]} {cell[marked.end() :]}" if marked else cell
    if inner.startswith("("):
        match = _CELL_CORE.fullmatch(inner)
        if match is None or not match["close"]:
            return None
        core = parse_quantity(match["core"])
        if core is None or core.value < 0 or (core.unit and match["percent"]):
            return None
        quantity = Quantity(-core.value, "%" if match["percent"] else core.unit, 0, len(cell))
    else:
        parsed = parse_quantity(cell)
        if parsed is None:
            return None
        quantity = Quantity(parsed.value, parsed.unit, 0, len(cell))
    lead = len(text) - len(text.lstrip())
    return Quantity(quantity.value, quantity.unit, lead, lead + len(cell))


def _value_of(match: re.Match[str]) -> Decimal | None:
    digits = match["digits"].replace(",", "")
    if len(digits) > 18 or (len(digits) > 1 and digits[0] == "0"):
        return None  # "05 Chemin ...", telephone numbers
    if match["sign"] and match["inner_sign"]:
        return None
    value = Decimal(digits + (match["decimals"] or ""))
    return -value if match["sign"] or match["inner_sign"] else value


def _looks_like_year(match: re.Match[str]) -> bool:
    digits = match["digits"]
    return "," not in digits and not match["decimals"] and len(digits) == 4 and 1900 <= int(digits) <= 2100


def _split_remarks(rest: str) -> tuple[str, str]:
    """Cut before the first bracket that follows a blank: "male(s)/female (2024 est.)" -> unit, remark."""
    cut = rest.find(" (")
    return (rest, "") if cut < 0 else (rest[:cut], rest[cut:])


def _only_brackets(text: str) -> bool:
    """True if the text is nothing but closed brackets and white space."""
    depth = 0
    for character in text:
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                return False
        elif depth == 0 and not character.isspace():
            return False
    return depth == 0


def _is_unit(unit: str) -> bool:
    if len(unit) > MAX_UNIT_CHARACTERS or len(unit.split()) > MAX_UNIT_WORDS:
        return False
    bare = _LETTER_DIGIT.sub("", _PER_THOUSANDS.sub("", unit))
    return _UNIT_REFUSED.search(bare) is None and (not bare or bare[0].isalpha() or bare[0] in "%°")
