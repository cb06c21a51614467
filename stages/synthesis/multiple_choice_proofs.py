"""Proofs of multiple-choice questions.

    {kind: option, of: {kind: sql | heading_after | ...}}     a question of another kind, whose answer is one of the options
    {kind: option, of: {kind: named_value, row}}              a name under a heading

Re-deriving answers the inner question from the evidence and returns the letter of the option that says the same. Two options
that say it, or none, prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from stages.common.records import QAPair
from stages.common.text import collapse_blanks
from stages.synthesis.entities import normalise_name
from stages.synthesis.proofs import TextOf, row_text

LETTERS = "ABCD"

Rederive = Callable[[QAPair, TextOf], str | list[str] | None]


def rederive_option(qa: QAPair, text_of: TextOf, rederive: Rederive) -> str | None:
    """The letter of the one option that agrees with the evidence; `rederive` answers the inner question."""
    inner = qa.proof["of"]
    if len(qa.choices) != len(LETTERS) or inner["kind"] == "option":
        return None
    if inner["kind"] == "named_value":
        text = row_text(inner["row"], qa, text_of)
        found = collapse_blanks(text) if text is not None else None
    else:
        answer = rederive(qa.model_copy(update={"proof": inner}), text_of)
        found = answer if isinstance(answer, str) else None
    if found is None:
        return None
    matching = [letter for letter, choice in zip(LETTERS, qa.choices, strict=True) if same_answer(choice, found)]
    return matching[0] if len(matching) == 1 else None


def same_answer(a: str, b: str) -> bool:
    """Equal as numbers where both are numbers ("1,250.0" and "1250"), else as names."""
    first, second = _number(a), _number(b)
    if first is not None and second is not None:
        return first == second
    return first is None and second is None and _name(a) == _name(b)


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _name(text: str) -> str:
    return normalise_name(text) or collapse_blanks(text).casefold()
