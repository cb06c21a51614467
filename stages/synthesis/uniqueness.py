"""Verification that a sample's context holds no second answer, as far as the context alone decides it.

Generators prove that a fact is unique in the whole corpus, and assembly keeps away what might speak of the same thing. Here
neither is believed: what the model is shown is searched for a second place that answers the question, and that says otherwise.

- any question: no other shown document bears the title of an evidence document;
- "which document says S", "the document that mentions X": no other shown document holds the words;
- what stands under, after or below a heading, and rows of proofs that headings name: no second heading of that name (under the
  same parent) in the shown parts of the document, with something else below it;
- a cell: no second row of that name below an equal header, with another number;
- a sentence with a blank: no second place of the document with the same words around another value;
- who says T, what follows T: no second turn of these words with another speaker or reply.

A second place that says the same is no second answer. All searches are of exact words, in the shown characters only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from stages.common.records import Sample, Span
from stages.common.storage import DocumentStore
from stages.common.text import collapse_blanks
from stages.synthesis.distractor_rules import proof_rows
from stages.synthesis.outline import Heading, headings
from stages.synthesis.quantities import Quantity, parse_cell
from stages.synthesis.rederive import rederive

Row = Any
_HEADING_KINDS = frozenset({"heading_after", "value_under", "last_subsection", "count_subsections", "count_list_items"})
_ENDS_WITH_NEXT_HEADING = frozenset({"value_under", "count_list_items"})
_TURN_KINDS = frozenset({"speaker_of", "reply_to"})
_TURN = re.compile(r"(?:\[\d+\] )?(?P<speaker>[^:\n]{1,80}): (?P<said>[^\n]*)")
_MIN_FRAME_CHARACTERS = 20
_MAX_BLANK_CHARACTERS = 40
_titles: WeakKeyDictionary[DocumentStore, dict[str, str]] = WeakKeyDictionary()


def answer_is_unique(sample: Sample, documents: DocumentStore) -> tuple[str, str] | None:
    """("not_unique", where the second answer stands), or None."""
    second = next(_second_answers(sample, documents), None)
    return None if second is None else ("not_unique", second[:300])


def _second_answers(sample: Sample, documents: DocumentStore) -> Iterator[str]:
    yield from _titles_again(sample, documents)
    kind = sample.proof.get("kind")
    if kind == "title_of":
        yield from _words_elsewhere(sample, documents, str(sample.proof["sentence"]), sample.evidence[0].document_id)
    elif kind in _HEADING_KINDS:
        yield from _sections_again(sample, documents)
    elif kind in _TURN_KINDS:
        yield from _turns_again(sample, documents)
    for row in proof_rows(sample.proof):
        if "start" not in row or "labels" not in row:
            continue
        if "grid" in row:
            yield from _cells_again(row, sample, documents)
        elif "____" in str(row["attribute"]):
            yield from _frames_again(row, sample, documents)
        elif row["attribute"] == "mentions":
            yield from _words_elsewhere(sample, documents, str(row["value"]), row["document_id"])
        elif row["labels"]:
            yield from _values_again(row, sample, documents)


def _titles_again(sample: Sample, documents: DocumentStore) -> Iterator[str]:
    titles = _titles.get(documents)
    if titles is None:
        titles = _titles[documents] = {document_id: documents[document_id].title for document_id in documents}
    own = {span.document_id for span in sample.evidence}
    named = {titles[document_id] for document_id in own}
    for span in sample.context:
        if span.document_id not in own and titles.get(span.document_id) in named:
            yield f"{span.document_id} has the title of an evidence document"


def _words_elsewhere(sample: Sample, documents: DocumentStore, words: str, own: str) -> Iterator[str]:
    """Places in documents other than `own` that hold the words, blanks aside."""
    parts = words.split()
    rarest = max(parts, key=len)
    pattern = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, parts)) + r"(?!\w)")
    for span in sample.context:
        if span.document_id == own:
            continue
        text = documents[span.document_id].text
        if text.find(rarest, span.start, span.end) >= 0 and (found := pattern.search(text, span.start, span.end)):
            yield f"{span.document_id}[{found.start()}:{found.end()}] says {words!r}"


def _sections_again(sample: Sample, documents: DocumentStore) -> Iterator[str]:
    """Other headings of the name that is asked about, below which the same question has another answer."""
    own = sample.evidence[0]
    text = documents[own.document_id].text
    name = str(sample.proof["heading"])
    for start, _ in _shown_headings(name, own.document_id, sample, documents):
        if start == own.start:
            continue
        found = _headings_of(text)
        index = next((i for i, heading in enumerate(found) if heading.start == start), None)
        if index is None:
            continue  # in fenced code
        end = _section_end(text, found, index, str(sample.proof["kind"]))
        other = Span(document_id=own.document_id, start=start, end=end)
        quote = sample.evidence[0].model_copy(update={"start": start, "end": end, "quote": text[start:end]})
        answer = rederive(sample.model_copy(update={"evidence": [quote]}), documents.text_of)
        if answer is not None and answer != sample.answer and _is_shown(other, sample):
            yield f"{own.document_id}[{start}:{end}]: a second {name!r} gives {answer!r}"


def _section_end(text: str, found: list[Heading], index: int, kind: str) -> int:
    following = found[index + 1] if index + 1 < len(found) else None
    if kind in _ENDS_WITH_NEXT_HEADING:
        end = following.start if following else len(text)
    elif kind == "heading_after":
        end = following.end if following else len(text)
    else:
        end = found[index].section_end
    return found[index].start + len(text[found[index].start : end].rstrip())


def _values_again(row: Row, sample: Sample, documents: DocumentStore) -> Iterator[str]:
    """Other headings as the row's, with another text below them. A row whose labels are no headings has none."""
    text = documents[row["document_id"]].text
    name = str(row["labels"][-1])
    places = list(_shown_headings(name, row["document_id"], sample, documents))
    own = max((place for place in places if place[0] < row["start"]), default=None)
    if own is None or len(places) < 2:
        return
    said = _below(text, own[1])
    for start, end in places:
        if start == own[0] or _below(text, end) == said:
            continue
        same = _parent(text, start) == _parent(text, own[0]) and _parents(text, start) == _parents(text, own[0])
        if same and _is_shown(_span_of(row, start, end), sample):
            yield f"{row['document_id']}[{start}:{end}]: a second {name!r} says {_below(text, end)[:80]!r}"


def _shown_headings(name: str, document_id: str, sample: Sample, documents: DocumentStore) -> Iterator[tuple[int, int]]:
    """Start and end of the lines "# name" that the context shows of a document."""
    text, wanted = documents[document_id].text, f"# {name}"
    for span in sample.context:
        if span.document_id != document_id:
            continue
        at = text.find(wanted, span.start, span.end)
        while at >= 0:
            start, end = text.rfind("\n", 0, at) + 1, at + len(wanted)
            if not text[start:at].strip("#") and text[end : end + 1] in ("", "\n"):
                yield start, end
            at = text.find(wanted, end, span.end)


def _below(text: str, position: int) -> str:
    """The text from the end of a heading to the next heading."""
    following = text.find("\n#", position)
    return collapse_blanks(text[position : following if following >= 0 else len(text)])


def _parent(text: str, start: int) -> str:
    """The line of the next heading above of a higher level; most that have another parent are told apart by it, cheaply."""
    level = _level(text, start)
    while start > 0 and level > 1:
        start = text.rfind("\n#", 0, start) + 1
        if _level(text, start) < level:
            return text[start : text.find("\n", start)]
    return ""


def _level(text: str, start: int) -> int:
    return len(text[start : start + 7]) - len(text[start : start + 7].lstrip("#"))


def _parents(text: str, start: int) -> list[str]:
    """The headings above the one at `start`, outermost first."""
    above: list[Heading] = []
    for heading in _headings_of(text):
        if heading.start > start:
            break
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
    return [heading.title for heading in above[:-1]]


@lru_cache(maxsize=8)
def _headings_of(text: str) -> list[Heading]:
    return headings(text)


def _cells_again(row: Row, sample: Sample, documents: DocumentStore) -> Iterator[str]:
    """Other rows of the same name, below a header of the same words, with another number in the same column.

    A row that a section above it tells from others of its name is left to the generator.
    """
    grid = row["grid"]
    if len(row["labels"]) != 1 + len(grid["column"]):
        return
    text = documents[row["document_id"]].text
    line_start = grid["line"][0]
    label = text[line_start : text.find("|", line_start + 1) + 1]
    column = text.count("|", line_start, row["start"])
    own = parse_cell(text[row["start"] : row["end"]])
    header = text[grid["header"][0] : grid["header"][1]]
    for span in sample.context:
        if span.document_id != row["document_id"] or not label.startswith("|") or "\\" in label:
            continue
        at = text.find(f"\n{label}", max(0, span.start - 1), span.end)
        while at >= 0:
            start, end = at + 1, text.find("\n", at + 1)
            end = len(text) if end < 0 else end
            if start != line_start and end <= span.end and _header_above(text, start).startswith(header):
                cells = text[start:end].split("|")
                other = parse_cell(cells[column]) if column < len(cells) else None
                if own and other and _differ(own, other):
                    yield f"{row['document_id']}[{start}:{end}]: a second row {label!r} gives {cells[column].strip()!r}"
            at = text.find(f"\n{label}", end, span.end)


def _differ(one: Quantity, other: Quantity) -> bool:
    """A sign that only one of two equal numbers bears ("$36,813", "36,813") makes no difference."""
    return one.value != other.value or bool(one.unit and other.unit and one.unit != other.unit)


def _header_above(text: str, line_start: int) -> str:
    """The table's text from its first line down to a row of it."""
    start = line_start
    while start > 0 and text.startswith("|", text.rfind("\n", 0, start - 1) + 1):
        start = text.rfind("\n", 0, start - 1) + 1
    return text[start:line_start]


def _frames_again(row: Row, sample: Sample, documents: DocumentStore) -> Iterator[str]:
    """Other places with the words before and after the blank, and something else in it."""
    before, after = (str(label) for label in (*row["labels"], "", "")[:2])
    if len(before) + len(after) < _MIN_FRAME_CHARACTERS or not before or not after:
        return
    text = documents[row["document_id"]].text
    pattern = re.compile(re.escape(before) + rf"([^\n]{{1,{_MAX_BLANK_CHARACTERS}}}?)" + re.escape(after))
    for span in sample.context:
        if span.document_id != row["document_id"]:
            continue
        for found in pattern.finditer(text, span.start, span.end):
            if collapse_blanks(found[1]) != row["value"]:
                yield f"{row['document_id']}[{found.start()}:{found.end()}] fills the blank with {found[1]!r}"


def _turns_again(sample: Sample, documents: DocumentStore) -> Iterator[str]:
    """Other turns of the quoted words with another speaker, or by the same one with another reply."""
    own = sample.evidence[0]
    text, said = documents[own.document_id].text, str(sample.proof["said"])
    speaker = _TURN.match(text, own.start, own.end)
    for span in sample.context:
        if span.document_id != own.document_id:
            continue
        at = text.find(f": {said}\n", span.start, span.end)
        while at >= 0:
            start, end = text.rfind("\n", 0, at) + 1, at + len(said) + 2
            turn, reply = _TURN.fullmatch(text, start, end), _TURN.match(text, end + 1, span.end)
            if turn is not None and speaker is not None and turn["said"] == said and start != own.start:
                if sample.proof["kind"] == "speaker_of" and turn["speaker"] != speaker["speaker"]:
                    yield f"{own.document_id}[{start}:{end}]: {turn['speaker']} says it, too"
                same = turn["speaker"] == speaker["speaker"]
                if sample.proof["kind"] == "reply_to" and same and reply and reply["said"] != sample.answer:
                    yield f"{own.document_id}[{start}:{end}]: the words stand here, too, with another reply"
            at = text.find(f": {said}\n", end, span.end)


def _span_of(row: Row, start: int, end: int) -> Span:
    return Span(document_id=row["document_id"], start=start, end=end)


def _is_shown(span: Span, sample: Sample) -> bool:
    return any(
        shown.document_id == span.document_id and shown.start <= span.start and span.end <= shown.end
        for shown in sample.context
    )
