"""The form of a question that teaches labels by examples, and re-deriving its answer from question and evidence alone.

    A hidden rule labels every text by where it stands in the documents, not by its wording. Examples:
    dorvem: "..."
    ...
    By the same rule, which labels do these texts have?
    1. "..."
    2. "..."

What stands in one place has one label. Evidence, by `proof.by`: `document`: a span per quoted text, the place is its
document; `section`, `class`: a span per place, from the heading or `class` line that opens it to its last quoted text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stages.common.records import Evidence, QAPair, Span
from stages.synthesis.outline import headings

TextOf = Callable[[Span], str]
FEWEST_PLACES, FEWEST_SHOTS = 3, 2
_SHOT = re.compile(r'^([a-z]+): "([^"\n]+)"$', re.MULTILINE)
_ASKED = re.compile(r'^\d+\. "([^"\n]+)"$', re.MULTILINE)
_CLASS = re.compile(r"class[ \t]+(\w+)")


@dataclass(frozen=True)
class _Place:
    """Where a text can stand: a document, or the part of it that begins at `start`. name: as in the proof."""

    document_id: str
    start: int
    name: str


def label_question(shots: Sequence[tuple[str, str]], asked: Sequence[str]) -> str:
    """The question. shots: (text, label); no text holds a double quote or a line break."""
    return "\n".join(
        [
            "A hidden rule labels every text by where it stands in the documents, not by its wording. Examples:",
            *(f'{label}: "{text}"' for text, label in shots),
            "By the same rule, which labels do these texts have?",
            *(f'{number}. "{text}"' for number, text in enumerate(asked, start=1)),
            "Answer with the labels only, in this order, separated by commas.",
        ]
    )


def shown_texts(question: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(shots as (text, label), texts to be labelled) of a question as `label_question` writes it."""
    return [(text, label) for label, text in _SHOT.findall(question)], _ASKED.findall(question)


def rederive_labels(qa: QAPair, text_of: TextOf) -> str | None:
    """The labels of the asked texts: each text is found in its span, the shots say which place has which label.

    None unless every text stands in the evidence exactly once, three places or more have two shots or more each, and
    places and labels correspond one to one, as the proof says.
    """
    by = qa.proof["by"]
    opened = [(_place(by, item, text), text) for item in qa.evidence if (text := _text(item, text_of))]
    if any(place is None for place, _ in opened):
        return None
    shots, asked = shown_texts(qa.question)
    label_of: dict[_Place, str] = {}
    times: Counter[_Place] = Counter()
    for text, label in shots:
        place = _only_place(text, opened)
        if place is None or label_of.setdefault(place, label) != label:
            return None
        times[place] += 1
    if (
        len(label_of) < FEWEST_PLACES
        or min(times.values()) < FEWEST_SHOTS
        or len(set(label_of.values())) < len(label_of)
    ):
        return None
    if {place.name: label for place, label in label_of.items()} != qa.proof["labels"]:
        return None
    places = [_only_place(text, opened) for text in asked]
    found = [label_of[place] for place in places if place is not None]  # KeyError: a place without shots
    return ", ".join(found) if found and len(found) == len(asked) else None


def _text(evidence: Evidence, text_of: TextOf) -> str:
    return text_of(Span(document_id=evidence.document_id, start=evidence.start, end=evidence.end))


def _place(by: str, evidence: Evidence, text: str) -> _Place | None:
    """The place that an evidence span lies in; None if the span does not show that it is one place."""
    document_id = evidence.document_id
    if by == "document":
        return _Place(document_id, 0, document_id)
    if by == "section":
        found = headings(text)
        alone = len(found) == 1 and found[0].start == 0
        return _Place(document_id, evidence.start, found[0].title) if alone else None
    opening = _CLASS.match(text)
    # By text where the generator used the parser: a line in column 0 would end the class.
    inside = all(not line.strip() or line[0] in " \t)]}" for line in text.split("\n")[1:])
    return _Place(document_id, evidence.start, opening[1]) if by == "class" and opening and inside else None


def _only_place(text: str, opened: Sequence[tuple[_Place | None, str]]) -> _Place | None:
    """The place of the one span that holds a text once; None if none or several do."""
    holding = [(place, shown.count(text)) for place, shown in opened if text in shown]
    return holding[0][0] if len(holding) == 1 and holding[0][1] == 1 else None
