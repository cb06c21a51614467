r"""Samples and drops as text for a terminal. Everything from documents and models is escaped: it is shown, never obeyed.

Control and direction characters appear as `\\x1b`; evidence stands between ⟦ and ⟧, in colour on a terminal.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flows.inspect_files import Found
from stages.common.records import QAPair, Sample
from stages.common.storage import DocumentStore
from stages.synthesis.shown import ShownEvidence, ShownSpan, shown_evidence, shown_spans

_AROUND_CHARACTERS = 160
_MAX_ROWS = 20
_MAX_CELL = 60
_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def safe(text: str, *, lines: bool = False) -> str:
    r"""Text that cannot steer a terminal: control, direction and unassigned characters as escapes.

    >>> safe("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    kept = "\n\t" if lines else ""
    return "".join(
        c if c in kept or unicodedata.category(c) not in _UNSAFE else c.encode("unicode_escape").decode() for c in text
    )


def shortened(text: str, limit: int) -> str:
    """One safe line of at most `limit` characters."""
    line = safe(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def sample_lines(found: Found, documents: DocumentStore, *, colour: bool, whole_context: bool) -> list[str]:
    """Everything about one sample."""
    pair = found.pair
    lines = [
        f"{safe(pair.id)}   {pair.task_type}, {safe(pair.generator)}   in {', '.join(found.files)}",
        "",
        f"Question  {safe(pair.question, lines=True)}",
    ]
    lines += [f"          {letter}. {safe(choice)}" for letter, choice in zip("ABCDEFGH", pair.choices, strict=False)]
    answer = pair.answer if isinstance(pair.answer, str) else "; ".join(pair.answer)
    lines += [f"Answer    {safe(answer)}   ({pair.answer_kind})"]
    if found.verification is not None:
        checks = {key: value for key, value in found.verification.items() if key != "id" and value is not None}
        lines.append(f"Checks    {', '.join(f'{key} {value}' for key, value in checks.items())}")
    lines += ["", *proof_lines(pair)]
    if isinstance(pair, Sample):
        lines += ["", *_context_lines(pair, documents, colour, whole_context)]
    else:
        lines += ["", "Evidence (no context yet: assemble makes it)"]
        for evidence in pair.evidence:
            lines.append(f"  {safe(evidence.document_id)}[{evidence.start}:{evidence.end}]")
            lines += _indented(_marked(safe(evidence.quote, lines=True), colour))
    return lines


def proof_lines(pair: QAPair) -> list[str]:
    """The proof: SQL with the rows it reads, hops of a path, or its fields."""
    proof = pair.proof
    lines = [f"Proof     {safe(str(proof.get('kind', 'unknown')))}"]
    if "sql" in proof:
        lines += _indented(safe(str(proof["sql"]), lines=True))
    if isinstance(proof.get("rows"), list):
        lines += _table([row for row in proof["rows"] if isinstance(row, Mapping)])
    hops = proof.get("hops")
    for number, hop in enumerate(hops if isinstance(hops, list) else [], start=1):
        if not isinstance(hop, Mapping):
            continue
        flat = {key: value for key, value in hop.items() if not isinstance(value, Mapping | list)}
        lines.append(f"  hop {number}: {shortened(', '.join(f'{key} {value}' for key, value in flat.items()), 160)}")
        rows = [value for value in hop.values() if isinstance(value, Mapping)]
        rows += [row for value in hop.values() if isinstance(value, list) for row in value if isinstance(row, Mapping)]
        lines += _table(rows)
    for key, value in proof.items():
        if key not in ("kind", "sql", "rows", "hops"):
            lines.append(f"  {safe(str(key))}: {shortened(json.dumps(value, ensure_ascii=False), 160)}")
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    wanted = ("entity", "attribute", "period", "value", "unit", "document_id", "start", "end")
    columns = [name for name in wanted if any(name in row for row in rows)]
    columns += sorted({key for row in rows for key in row} - set(wanted) - {"labels"})
    if not rows or not columns:
        return []
    cells = [columns, *([shortened(str(row.get(name, "")), _MAX_CELL) for name in columns] for row in rows[:_MAX_ROWS])]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return [*lines, f"    ... {len(rows) - _MAX_ROWS} more rows"] if len(rows) > _MAX_ROWS else lines


def _context_lines(sample: Sample, documents: DocumentStore, colour: bool, whole: bool) -> list[str]:
    spans = shown_spans(sample, documents)
    evidence = shown_evidence(sample, spans)
    lines = [f"Context   {sample.context_tokens:,} tokens, {len(spans)} spans of documents, evidence marked ⟦so⟧"]
    for shown in spans:
        inside = [found for found in evidence if found.shown_in is shown]
        span = shown.span
        at = f"{100 * shown.begin / max(1, shown.total):.0f} %"
        places = "".join(f", evidence at {100 * found.position:.0f} %" for found in inside)
        lines.append(
            f"  {shown.number:>3}. {shortened(shown.title, 60)}   {safe(span.document_id)}[{span.start}:{span.end}]   from {at}{places}"
        )
        if whole or inside:
            lines += _indented(_excerpt(shown, inside, documents, colour, whole))
    return lines


def _excerpt(
    shown: ShownSpan, inside: Sequence[ShownEvidence], documents: DocumentStore, colour: bool, whole: bool
) -> str:
    """The span's text, or what stands around its evidence, with the evidence marked."""
    text = documents.text_of(shown.span)
    offset = shown.span.start
    marks = _merged((found.evidence.start - offset, found.evidence.end - offset) for found in inside)
    parts, position = [], 0
    for start, end in marks:
        before = text[position:start]
        if not whole and len(before) > 2 * _AROUND_CHARACTERS:
            head = before[:_AROUND_CHARACTERS] if position else ""
            before = f"{head}\n[...]\n{before[-_AROUND_CHARACTERS:]}"
        parts += [safe(before, lines=True), _marked(safe(text[start:end], lines=True), colour)]
        position = end
    rest = text[position:]
    if not whole and len(rest) > _AROUND_CHARACTERS:
        rest = f"{rest[:_AROUND_CHARACTERS]}\n[...]"
    return "".join([*parts, safe(rest, lines=True)])


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _marked(text: str, colour: bool) -> str:
    return f"\x1b[1;33m⟦{text}⟧\x1b[0m" if colour else f"⟦{text}⟧"


def _indented(text: str) -> list[str]:
    return [f"       {line}" for line in text.split("\n")]


def list_lines(rows: Sequence[Mapping[str, Any]], total: int) -> list[str]:
    """One line per sample."""
    lines = []
    for row in rows:
        answer = row["answer"] if isinstance(row["answer"], str) else "; ".join(row["answer"])
        tokens = f"{row['context_tokens']:>8,}" if "context_tokens" in row else " " * 8
        lines.append(f"{safe(row['id']):<36} {tokens}  {shortened(row['question'], 110)}  -> {shortened(answer, 40)}")
    if total > len(rows):
        lines.append(f"... {total - len(rows)} more (--limit {total} shows all)")
    return lines


def drop_lines(rows: Sequence[tuple[str, Mapping[str, Any]]], total: int) -> list[str]:
    """One line per drop, and what was dropped below it."""
    lines = []
    for stage, row in rows:
        record = row.get("record", {})
        what = record.get("id") or record.get("path") or record.get("document_id") or record.get("question") or ""
        lines.append(f"{stage}  {safe(str(row['reason']))}  {shortened(str(what), 80)}")
        lines.append(f"    {shortened(str(row['detail']), 160)}")
        if record.get("question"):
            lines.append(f"    {shortened(str(record['question']), 160)}")
    if total > len(rows):
        lines.append(f"... {total - len(rows)} more (--limit {total} shows all)")
    return lines


def merge_lines(rows: Sequence[Mapping[str, Any]], total: int) -> list[str]:
    """Two lines per merge: both names with the rule, and where each of them stands."""
    lines = []
    for row in rows:
        names = f"{shortened(str(row['name']), 60)}  is read as  {shortened(str(row['known_as']), 60)}"
        count = row["documents"]
        lines.append(f"{row['kind']}, {row['rule']}: {names}   ({count} document{'s' if count > 1 else ''})")
        known = safe(str(row["known_document_id"]))
        known += f"[{row['known_start']}:{row['known_end']}]" if row["known_end"] else " (its title)"
        lines.append(f"    {safe(str(row['document_id']))}[{row['start']}:{row['end']}]   {known}")
    if total > len(rows):
        lines.append(f"... {total - len(rows)} more (--limit {total} shows all)")
    return lines
