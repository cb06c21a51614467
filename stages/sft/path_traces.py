"""The steps of a multi-hop proof in words: what is quoted, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from stages.common.turns import ordinal

MAX_ROWS = 6  # of one step
_LEADING_ON = frozenset({"rank", "select", "pick", "compare", "gap", "suppose"})  # told by what they find

Row = Mapping[str, Any]


def path_steps(
    hops: Sequence[Row], answer: str, cite: Callable[[Row], str], named: Callable[[Row], str]
) -> list[str] | None:
    """A step or more for each hop; `cite` quotes a row's value with its place, `named` says what it is.

    None for a hop that is not known, or whose result cannot be told. KeyError or TypeError for one of another shape.
    """
    steps: list[str] = []
    for hop, found in zip(hops, _results(hops, answer), strict=True):
        if found is None and hop["op"] in _LEADING_ON:
            return None
        match hop["op"]:
            case "describe":
                fits = f" It {hop['vague']['words']}." if "vague" in hop else ""
                steps.append(f"{cite(hop['row'])}{fits} So it is {hop['row']['entity']}.")
            case "rank":
                steps += _each(hop["rows"], cite, named)
                steps.append(f"So {hop['words']} is {found}.")
            case "back":
                steps.append(f"{cite(hop['row'])} So it is {hop['row']['entity']}.")
            case "go":
                steps.append(f"{cite(hop['row'])} This is {hop['to']}.")
            case "select" | "pick":
                steps.append(f"{cite(hop['row'])} {_entry(hop)} {found}.")
            case "alias":
                if hop["from"] != hop["to"]:
                    steps.append(f"{hop['from']} is {hop['to']}.")
            case "compare":
                steps += _each(hop["rows"], cite, named)
                place = "" if hop.get("rank", 1) == 1 else f"{ordinal(hop['rank'])} "
                steps.append(f"The {place}{_extreme(hop)} is that of {found}.")
            case "gap":
                steps += _each(hop["rows"], cite, named)
                steps.append(f"The difference is {found}.")
            case "suppose" if "without" in hop:
                which = "largest" if hop["without"] == "max" else "smallest"
                steps.append(f"{cite(hop['row'])} Without the {which} entry, the {which} is {found}.")
            case "suppose":
                steps += _each(hop["rows"], cite, named)
                change = (
                    f"{hop['changed']} were {hop['plus']} years later"
                    if "plus" in hop
                    else f"{hop['changed']} had the value of {hop['gets']}"
                )
                steps.append(f"If {change}, it would be {found}.")
            case "value":
                steps.append(f"{cite(hop['row'])} This is {named(hop['row'])}.")
            case _:
                return None
    return steps


def _results(hops: Sequence[Row], answer: str) -> list[str | None]:
    """What each hop finds: where the next one starts (None if that starts anew), the answer for the last."""
    return [*(str(hop["from"]) if "from" in hop else None for hop in hops[1:]), answer]


def _each(rows: Sequence[Row], cite: Callable[[Row], str], named: Callable[[Row], str]) -> list[str]:
    return [f"{cite(row)} This is {named(row)}." for row in rows[:MAX_ROWS]]


def _entry(hop: Row) -> str:
    if "words" in hop:
        return f"The {hop['words']} is"
    if "vague" in hop:
        return f"The one of {hop['vague']['words']} is"
    return {"max": "The largest is", "min": "The smallest is"}.get(hop["by"], f"{hop.get('value')} is")


def _extreme(hop: Row) -> str:
    """largest, earliest ...; of two, the larger."""
    first = hop["rows"][0]
    try:
        Decimal(str(first["value"]))
        is_time = "year" in str(first["attribute"]).split()
    except InvalidOperation:
        is_time = True
    word = ("late" if hop["by"] == "max" else "earli") if is_time else ("large" if hop["by"] == "max" else "small")
    return word + (
        ("r" if word.endswith("e") else "er") if len(hop["rows"]) == 2 else ("st" if word.endswith("e") else "est")
    )
