"""Reasoning written from a sample's proof: where each fact stands, what follows from it, what is computed.

    1. "Ecuador - The World Factbook", Capital, name: "Quito". So it is Ecuador.
    2. "Ecuador - The World Factbook", Land boundaries, border countries: "Colombia 708 km; Peru 1529 km". 708 is Colombia.
    3. "Colombia - The World Factbook", National symbol(s): "Andean condor".

A warm-up on such traces teaches to look facts up and to quote them, not only to emit answers. Every quote is the
document's own text. Proofs are tolerated as they come: what a trace does not know (a new kind, a new field) is replaced by
the quotes of the sample's evidence; a sample without evidence has no trace. Quotes are untrusted text: tags in them that
would close the reasoning or open a chat turn are broken.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import permutations
from typing import Any

from stages.common.prompts import defuse_tags
from stages.common.records import Sample, Span
from stages.common.storage import DocumentStore
from stages.common.text import collapse_blanks
from stages.sft.path_traces import path_steps

MAX_QUOTE_CHARACTERS = 400
MAX_STEPS = 24
_DEF = re.compile(r"^([ \t]+)(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*$", re.MULTILINE)
_THINK = re.compile(r"<(?=\s*/?\s*think\b)", re.IGNORECASE)

Row = Mapping[str, Any]


def proof_trace(sample: Sample, documents: DocumentStore) -> str | None:
    """The reasoning behind a sample's answer, one numbered step per line; None if it has neither proof nor evidence."""
    write = _KINDS.get(str(sample.proof.get("kind")))
    steps: list[str] = []
    if write is not None:
        try:
            steps = write(sample, documents)
        except (KeyError, TypeError, ValueError, IndexError):
            steps = []  # a proof of another shape than we know; the evidence still tells where to look
    steps = steps or _quotes(sample, documents)
    if not steps:
        return None
    return defuse("\n".join(f"{number}. {step}" for number, step in enumerate(steps[:MAX_STEPS], start=1)))


def defuse(text: str) -> str:
    """Break tags that would end the reasoning, close a document or open a chat turn."""
    return _THINK.sub("‹", defuse_tags(text))


def _path(sample: Sample, documents: DocumentStore) -> list[str]:
    return path_steps(sample.proof["hops"], str(sample.answer), lambda row: _cite(row, documents), _named) or []


def _sql(sample: Sample, documents: DocumentStore) -> list[str]:
    rows: Sequence[Row] = sample.proof["rows"]
    steps = [f"{_cite(row, documents)} This is {_named(row)}: {row['value']}." for row in rows[: MAX_STEPS - 1]]
    if len(rows) > 1:
        values = [str(row["value"]) for row in rows]
        steps.append(_calculation(str(sample.proof["sql"]), values, str(sample.answer)))
    return steps


def _calculation(sql: str, values: Sequence[str], answer: str) -> str:
    """What a query does with the values, in words where it is one of the usual ones, else the query itself.

    Words are used only where they come to the answer: rows of a proof may stand in any order.
    """
    fallback = f"{sql} on these rows gives {answer}."
    try:
        numbers = [Decimal(value) for value in values]
        gold = Decimal(answer)
    except InvalidOperation:
        return fallback
    total = sum(numbers, Decimal(0))
    written = [f"({value})" if value.startswith("-") else value for value in values]
    listed = ", ".join(values)
    what = re.match(r"SELECT (?:ROUND\()?\(?(SUM|AVG|MAX|MIN|COUNT)\b", sql)
    match what and what[1]:
        case "SUM" if _rounds_to(total, gold):
            return f"{' + '.join(written)} = {answer}."
        case "AVG" if _rounds_to(total / len(numbers), gold):
            return f"({' + '.join(written)}) / {len(values)} = {answer}."
        case "MAX" if max(numbers) == gold:
            return f"The largest of {listed} is {answer}."
        case "MIN" if min(numbers) == gold:
            return f"The smallest of {listed} is {answer}."
        case "COUNT" if condition := re.search(r"value ([<>]=?) ?(-?[\d.]+)", sql):
            counted = sum(_COMPARE[condition[1]](number, Decimal(condition[2])) for number in numbers)
            if counted == gold:
                return f"Of {listed}, those {condition[1]} {condition[2]} are {answer}."
        case None if len(numbers) == 2 and (sign := re.search(r"\) ([-/]) \(SELECT", sql)):
            for (one, first), (other, second) in permutations(zip(numbers, written, strict=True)):
                if sign[1] == "-" or other:
                    value = one - other if sign[1] == "-" else one / other
                    if _rounds_to(value, gold):
                        return f"{first} {sign[1]} {second} = {answer}."
    return fallback


def _rounds_to(value: Decimal, gold: Decimal) -> bool:
    """True if `gold` is the value, rounded to the decimals that it is written with."""
    exponent = gold.as_tuple().exponent
    assert isinstance(exponent, int)
    return abs(value - gold) <= Decimal(1).scaleb(exponent) / 2


def _option(sample: Sample, documents: DocumentStore) -> list[str]:
    row: Row = sample.proof["rows"][0]
    option = sample.choices["ABCDEFGH".index(str(sample.answer))]
    return [f"{_cite(row, documents)} This is {_named(row)}.", f"Option {sample.answer} says {option}."]


def _outline(sample: Sample, documents: DocumentStore) -> list[str]:
    """The headings of a quoted section, or the methods of a quoted class, in order."""
    (item,) = sample.evidence
    if sample.proof.get("class"):
        kind, found = "methods", _DEF.findall(item.quote)
        names = [name for indent, name in found if indent == found[0][0]]
    else:
        kind, names = "headings", _HEADING.findall(item.quote)
        if str(sample.proof["kind"]).startswith("count_"):
            kind, names = "subsections", names[1:]
    if str(sample.answer) not in (*names, str(len(names))):
        return []
    about = sample.proof.get("class") or sample.proof["heading"]
    listed = "; ".join(names)
    return [f'In "{_title(item.document_id, documents)}", the {kind} of "{about}" in order ({len(names)}): {listed}.']


def _quotes(sample: Sample, documents: DocumentStore) -> list[str]:
    """The sample's evidence, quoted."""
    return [f'"{_title(item.document_id, documents)}" says: "{shortened(item.quote)}"' for item in sample.evidence]


def _cite(row: Row, documents: DocumentStore) -> str:
    """Where a row's value stands, and its characters."""
    span = Span(document_id=row["document_id"], start=row["start"], end=row["end"])
    labels = "".join(f", {label}" for label in row.get("labels", ()))
    return f'"{_title(span.document_id, documents)}"{labels}: "{shortened(documents.text_of(span))}".'


def _named(row: Row) -> str:
    """What a row's value is: attribute, period, entity, unit."""
    period = f" ({row['period']})" if row.get("period") else ""
    unit = f", in {row['unit']}" if row.get("unit") else ""
    return f"{row['attribute']}{period} of {row['entity']}{unit}"


def _title(document_id: str, documents: DocumentStore) -> str:
    return documents[document_id].title.replace('"', "'")


def shortened(text: str) -> str:
    """A quote on one line, of bounded length."""
    text = collapse_blanks(text)
    return text if len(text) <= MAX_QUOTE_CHARACTERS else text[:MAX_QUOTE_CHARACTERS].rstrip() + " ..."


_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_KINDS: dict[str, Callable[[Sample, DocumentStore], list[str]]] = {
    "path": _path,
    "sql": _sql,
    "option": _option,
    "count_methods": _outline,
    "method_after": _outline,
    "count_subsections": _outline,
    "last_subsection": _outline,
    "heading_after": _outline,
}
