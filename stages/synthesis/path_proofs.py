"""Re-deriving a path's answer from its evidence: hop by hop, each row read from the documents, each link checked.

Every hop gives a text. `from` must be what an earlier hop gave or, where nothing was found yet, what the question names.

- describe  a value in the question, or one that satisfies the question's vague words for it -> the entity that has it
- rank      a place in a group, all of whose numbers or dates are evidence -> the entity that takes it
- back      an entity -> the one whose value means it ("directly extends ...")
- go        an entity -> the entity that its value means
- select    an entity -> an entry of its list value, the largest, the smallest or by its number; pick: by its place or a range; alias: the entry's name -> the entity
- value     an entity -> its value
- compare   entities -> the one with the k-th largest (or smallest) number or date
- gap       two entities -> the years between their dates, or the difference of their numbers
- suppose   counterfactual: one row's number is replaced by another's (or a list loses its largest entry), then compare or select

What a value means: the same name, a name that the entity's document gives (a row of it), the file that a relative or absolute
import means, the class of that name there, or the filing whose period it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from stages.common.records import QAPair
from stages.synthesis.code_names import import_target
from stages.synthesis.dates import parse_date
from stages.synthesis.entities import normalise_name
from stages.synthesis.lists import Item, choose, parse_list
from stages.synthesis.proofs import MAX_ROWS, Row, TextOf, row_holds, row_text
from stages.synthesis.quantities import plain
from stages.synthesis.relation_phrases import count_word, ordinal_word, placed_word
from stages.synthesis.vague_values import holds, range_words, words_for

Results = list[str]


def rederive_path(qa: QAPair, text_of: TextOf) -> str | None:
    """Follow the hops from the question to the answer. None where one does not hold."""
    results: Results = []
    for hop in qa.proof["hops"]:
        if "from" in hop and not _known(str(hop["from"]), results, qa):
            return None
        result = _HOPS[hop["op"]](hop, qa, text_of, results)
        if result is None:
            return None
        results.append(result)
    return results[-1] if results and _all_used(qa.proof["hops"], results) else None


def _all_used(hops: Sequence[Row], results: Results) -> bool:
    """True if every hop but the last leads on to a later one: a proof with a loose end proves something else."""
    needed: set[str] = set()
    for hop, result in zip(reversed(hops), reversed(results), strict=True):
        if needed and result not in needed:
            return False
        needed |= {str(row["entity"]) for row in hop.get("rows", ())} | {str(hop.get("from", result))}
    return True


def _known(name: str, results: Results, qa: QAPair) -> bool:
    """True if a hop found it or the question names it (of "rq/job.py:Job", file and class)."""
    if name in results:
        return True
    return all(part and part in qa.question for part in (name.split(":") if ".py:" in name else [name]))


def _describe(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    del results
    row = hop["row"]
    if not row_holds(row, qa, text_of):
        return None
    if "vague" in hop:
        fits = holds(hop["vague"], str(row["value"]), str(row["unit"]))
        told = hop["vague"]["words"] == words_for(hop["vague"]) and _says(qa, hop["vague"]["words"])
        return str(row["entity"]) if fits and told else None
    return str(row["entity"]) if _shown(row, qa) else None


def _says(qa: QAPair, words: str) -> bool:
    return " ".join(words.split()) in " ".join(qa.question.split())


def _rank(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    """The entity at a place of a group; every number is read again, the question says the place and the group's size."""
    del results
    rows = hop["rows"]
    if len({row["entity"] for row in rows}) != len(rows) or len({(row["unit"], row["attribute"]) for row in rows}) != 1:
        return None
    if not all(row_holds(row, qa, text_of) for row in rows) or not _says(qa, hop["words"]):
        return None
    places = [ordinal_word(hop["by"], int(hop["rank"]), kind) for kind in ("number", "date")]
    if (
        not any(f" the {place} " in f" {hop['words']} " for place in places)
        or f"among the {count_word(len(rows))} " not in hop["words"]
    ):
        return None
    values = [(str(row["entity"]), _comparable(row)) for row in rows]
    return _kth(values, hop["by"], int(hop["rank"])) if None not in [value for _, value in values] else None


def _shown(row: Row, qa: QAPair) -> bool:
    return " ".join(str(row["value"]).split()) in " ".join(qa.question.split())


def _back(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    del results
    row = hop["row"]
    if not row_holds(row, qa, text_of) or not _means(row, str(hop["from"]), hop.get("link"), qa, text_of):
        return None
    return str(row["entity"])


def _go(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    del results
    row = hop["row"]
    if row["entity"] != hop["from"] or not row_holds(row, qa, text_of):
        return None
    return str(hop["to"]) if _means(row, str(hop["to"]), hop.get("link"), qa, text_of) else None


def _means(row: Row, entity: str, link: Row | None, qa: QAPair, text_of: TextOf) -> bool:
    """True if the row's value is a way to name the entity."""
    value = str(row["value"])
    if value == entity or normalise_name(value) == normalise_name(entity):
        return True
    if link is not None:
        text = row_text(link, qa, text_of)
        if text is None:
            return False
        if ".py" not in entity:
            return bool(link["entity"] == entity) and normalise_name(text) == normalise_name(value)
        path, _, name = entity.partition(":")
        return name == value and _is_import_of(text, str(link["entity"]), path)
    path, _, name = entity.partition(":")
    here = str(row["entity"]).partition(":")[0]
    if name:
        return name == value and path == here
    if entity.endswith(".py"):
        return _is_import_of(value, here, entity)
    # A filing's own cover names its company and its period.
    return value in entity and str(row["entity"]) in entity


def _is_import_of(written: str, importer: str, path: str) -> bool:
    """True if `written` in an import statement of the file `importer` leads to the file `path` (or to its folder)."""
    module = written.lstrip(".")
    target = import_target(importer, module, len(written) - len(module))
    bare = path.removesuffix(".py").removesuffix("/__init__")
    return bool(target) and (target == bare or bare.rpartition("/")[0] == target)


def _select(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    """An entry of a list: "Libya 989 km; Mali 1,359 km" by its number, the largest or the smallest."""
    del results
    items = _items(hop["row"], qa, text_of)
    item = _entry(hop, items, qa) if items else None
    return item.name if item is not None and hop["row"]["entity"] == hop["from"] else None


def _entry(hop: Row, items: Sequence[Item], qa: QAPair) -> Item | None:
    """The one entry by its number, as the largest or smallest, at a place ("rank"), or in a range ("vague")."""
    if "vague" in hop:
        vague = hop["vague"]
        fits = [item for item in items if holds(vague, plain(item.quantity.value), item.quantity.unit)]
        told = vague["words"] == range_words(vague) and _says(qa, vague["words"])
        return fits[0] if len(fits) == 1 and told else None
    if "rank" in hop:
        order = sorted(items, key=lambda item: item.quantity.value, reverse=hop["by"] == "max")
        rank = int(hop["rank"])
        near = [item.quantity.value for item in order[: rank + 1]]
        told = hop["words"] == placed_word(str(hop["row"]["attribute"]), hop["by"], rank) and _says(qa, hop["words"])
        return order[rank - 1] if rank <= len(order) and len(set(near)) == len(near) and told else None
    return choose(items, hop["by"], hop.get("value"))


def _items(row: Row, qa: QAPair, text_of: TextOf) -> list[Item] | None:
    return parse_list(str(row["value"])) if row_holds(row, qa, text_of) else None


def _alias(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    """From the name in a list to the entity: the same name, or one that the entity's document gives."""
    del results
    if normalise_name(hop["from"]) == normalise_name(hop["to"]):
        return str(hop["to"])
    text = row_text(hop["row"], qa, text_of) if "row" in hop else None
    if text is None or hop["row"]["entity"] != hop["to"]:
        return None
    names = {normalise_name(name) for name in text.split(" or ")}
    return str(hop["to"]) if normalise_name(hop["from"]) in names else None


def _value(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    del results
    row = hop["row"]
    return str(row["value"]) if row["entity"] == hop["from"] and row_holds(row, qa, text_of) else None


def _compare(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    """The entity with the k-th largest ("max") or smallest ("min") number or date among the rows; None if there is a tie."""
    values = _values(hop["rows"], qa, text_of, results)
    return None if values is None else _kth(values, hop["by"], int(hop.get("rank", 1)))


def _kth(values: Sequence[tuple[str, Any]], by: str, rank: int) -> str | None:
    if len({value for _, value in values}) != len(values) or not 1 <= rank <= len(values):
        return None
    return sorted(values, key=lambda pair: pair[1], reverse=by == "max")[rank - 1][0]


def _values(rows: Sequence[Row], qa: QAPair, text_of: TextOf, results: Results) -> list[tuple[str, Any]] | None:
    """(entity, number or ISO date) of rows about different entities that were found or are named."""
    if not 1 < len(rows) <= MAX_ROWS or len({row["entity"] for row in rows}) != len(rows):
        return None
    if len({(row["unit"], row["attribute"] if "»" not in row["attribute"] else "") for row in rows}) != 1:
        return None
    values = []
    for row in rows:
        if not row_holds(row, qa, text_of) or not _known(str(row["entity"]), results, qa):
            return None
        values.append((str(row["entity"]), _comparable(row)))
    kinds = {type(value) for _, value in values}
    return values if len(kinds) == 1 and None not in [value for _, value in values] else None


def _comparable(row: Row) -> Any:
    date = parse_date(str(row["value"])) if not row["unit"] else None
    return date if date is not None else Decimal(str(row["value"]))


def _gap(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    """Years between two dates, or how much the first number is above the second."""
    values = _values(hop["rows"], qa, text_of, results)
    if values is None or len(values) != 2:
        return None
    one, two = values[0][1], values[1][1]
    if isinstance(one, str):
        return str(abs(int(one[:4]) - int(two[:4])))
    return plain(one - two)


def _suppose(hop: Row, qa: QAPair, text_of: TextOf, results: Results) -> str | None:
    """The answer in a world where one thing is different."""
    if "without" in hop:
        items = _items(hop["row"], qa, text_of)
        gone = choose(items, hop["without"]) if items else None
        if items is None or gone is None or hop["row"]["entity"] != hop["from"]:
            return None
        item = choose([item for item in items if item is not gone], hop["without"])
        return item.name if item is not None else None
    values = _values(hop["rows"], qa, text_of, results)
    if values is None:
        return None
    found = dict(values)
    given = found[hop["gets"]] if "plus" not in hop else _later(found[hop["changed"]], int(hop["plus"]))
    changed = [(name, given if name == hop["changed"] else value) for name, value in values if name != hop.get("gets")]
    return _kth(changed, hop["by"], 1)


def _later(date: Any, years: int) -> str:
    text = str(date)
    return f"{int(text[:4]) + years:04d}{text[4:]}"


_HOPS: Mapping[str, Callable[[Row, QAPair, TextOf, Results], str | None]] = {
    "describe": _describe,
    "rank": _rank,
    "back": _back,
    "go": _go,
    "select": _select,
    "pick": _select,
    "alias": _alias,
    "value": _value,
    "compare": _compare,
    "gap": _gap,
    "suppose": _suppose,
}
