"""Places that can share a label, and the texts in them that can be quoted: documents, sections of one, classes of a repository."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.records import Document
from stages.synthesis.outline import ClassOutline, Heading

_MAX_CHARACTERS, _MAX_QUOTES = 200_000, 400  # that one document gives
_FEWEST_WORDS = 6
_MAX_TITLE_CHARACTERS = 80
_LEAST_LOWER_CASE = 0.5  # of a sentence's words: references and lists of names have fewer
# A sentence of one line behind another's end or a line break; no quotes, brackets or marks that a question could break at.
_SENTENCE = re.compile(r'(?:(?<=[a-z\d)][.!?] )|(?<=\n))[A-Z][\w’\', ][^.!?\n|#*_`\[\]{}<>\\"“”]{37,117}[.!?](?=\s)')
_ABBREVIATED = re.compile(
    r"\b(?:\w|mrs?|ms|dr|st|sen|rep|gov|vs|etc|al|no|figs?|approx|inc|corp|co)[.]$", re.IGNORECASE
)
_LONGEST_ABBREVIATION = 8
_LOWER_CASE = re.compile(r"\b[a-z]+\b")
_DEF = re.compile(r"def +(\w+) *\(")
_PROTOCOL = "__"  # __enter__ and __exit__ belong together wherever they stand
_TELLING = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z]{4,}")  # also the parts of a name like SortedQueue


@dataclass(frozen=True)
class Quote:
    """A text that can be quoted, at [start, end) of its document. under: the title of the heading above, for other rules."""

    start: int
    end: int
    text: str
    under: str = ""


@dataclass(frozen=True)
class Place:
    """What gets one label. begin: where its evidence must begin to show that the quotes stand in it; None: at each quote."""

    document_id: str
    name: str
    begin: int | None
    quotes: tuple[Quote, ...]


def sentences(document: Document, all_headings: Sequence[Heading]) -> tuple[Quote, ...]:
    """Short whole sentences that stand once, in order; of a very long document those of its middle."""
    starts = [heading.start for heading in all_headings]
    low = max(0, len(document.text) - _MAX_CHARACTERS) // 2
    matches = list(_SENTENCE.finditer(document.text, low, low + _MAX_CHARACTERS))
    times = Counter(match[0] for match in matches)
    found = []
    for match in matches:
        words = match[0].split()
        before = document.text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()].rstrip()
        if times[match[0]] > 1 or len(words) < _FEWEST_WORDS:
            continue
        if _ABBREVIATED.search(match[0]) or _ABBREVIATED.search(before):  # "Mr. Darcy" is no sentence's end
            continue
        if len(_LOWER_CASE.findall(match[0])) < _LEAST_LOWER_CASE * len(words):
            continue
        above = bisect_right(starts, match.start()) - 1
        found.append(Quote(*match.span(), match[0], all_headings[above].title if above >= 0 else ""))
    skipped = max(0, len(found) - _MAX_QUOTES) // 2
    return tuple(found[skipped : skipped + _MAX_QUOTES])


def document_place(document: Document, quotes: Sequence[Quote]) -> Place:
    """The document as a place."""
    return Place(document.id, document.id, None, _not_named(quotes, document.title))


def section_places(document: Document, all_headings: Sequence[Heading], quotes: Sequence[Quote]) -> list[Place]:
    """What stands between a heading and the next one, whatever their levels, where the heading's title occurs once."""
    times = Counter(heading.title for heading in all_headings)
    starts = [quote.start for quote in quotes]
    ends = [heading.start for heading in all_headings[1:]] + [len(document.text)]
    found = []
    for heading, end in zip(all_headings, ends, strict=False):
        inside = quotes[bisect_left(starts, heading.end) : bisect_left(starts, end)]
        if inside and times[heading.title] == 1 and len(heading.title) <= _MAX_TITLE_CHARACTERS:
            found.append(Place(document.id, heading.title, heading.start, _not_named(inside, heading.title)))
    return found


def class_places(document: Document, outlines: Sequence[ClassOutline]) -> list[Place]:
    """Classes with the `def name(` of methods that are defined nowhere else in the repository."""
    named = Counter(outline.name for outline in outlines)
    defined = Counter(_DEF.findall(document.text))
    found = []
    for outline in outlines:
        quotes = []
        for _, end in outline.methods:
            match = _DEF.search(document.text, document.text.rfind("\n", 0, end) + 1, end)
            if match is not None and defined[match[1]] == 1 and not match[1].startswith(_PROTOCOL):
                quotes.append(Quote(match.start(), match.end(), match[0], outline.name))
        if named[outline.name] == 1:
            found.append(Place(document.id, outline.name, outline.start, _not_named(quotes, outline.name)))
    return found


def _not_named(quotes: Sequence[Quote], title: str) -> tuple[Quote, ...]:
    """Those that hold no telling word of their place's title: a country's name would give its document away."""
    telling = [word.lower() for word in _TELLING.findall(title)]
    return tuple(quote for quote in quotes if not any(word in quote.text.lower() for word in telling))
