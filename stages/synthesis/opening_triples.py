"""Triples of the first lines of a text: a line that is nothing but a date, and whose address it is.

PRESIDENT JOHN F. KENNEDY'S SPECIAL MESSAGE TO THE CONGRESS ...      (document) --speaker--> JOHN F. KENNEDY
May 25, 1961                                                         (document) --date--> 1961-05-25
"""

from __future__ import annotations

import re

from stages.common.records import Document
from stages.synthesis.dates import parse_date
from stages.synthesis.markdown import Line, iter_lines
from stages.synthesis.triples import TripleRows, document_key

OPENING_CHARACTERS = 1500
OPENING_LINES = 6
MAX_LINE_CHARACTERS = 240

_SPEAKER = re.compile(r"^PRESIDENT (?P<name>[A-Z][A-Z. ]{4,40})['’]S ")


def opening_triples(document: Document, name: str, head_type: str, rows: TripleRows) -> None:
    """Add the speaker and the date that the first lines state."""
    lines = [line for line in iter_lines(document.text[:OPENING_CHARACTERS]) if line.text.strip()][:OPENING_LINES]
    for line in lines:
        if len(line.text) > MAX_LINE_CHARACTERS:
            continue
        speaker = _SPEAKER.match(line.text)
        if speaker is not None:
            _add(document, name, head_type, "speaker", line, speaker.span("name"), "name", "", rows)
        text = line.text.strip()
        date = parse_date(text)
        if date is not None and len(date) == 10:
            start = line.text.index(text)
            _add(document, name, head_type, "date", line, (start, start + len(text)), "date", date, rows)


def _add(
    document: Document,
    name: str,
    head_type: str,
    relation: str,
    line: Line,
    span: tuple[int, int],
    tail_type: str,
    number: str,
    rows: TripleRows,
) -> None:
    start, end = line.start + span[0], line.start + span[1]
    rows.add(
        head=document_key(document.id),
        head_name=name,
        head_type=head_type,
        relation=relation,
        tail_text=document.text[start:end],
        tail_type=tail_type,
        number=number,
        document_id=document.id,
        span=(start, end),
        evidence=[(line.start, line.end)],
        labels=[],
        rule="opening",
    )
