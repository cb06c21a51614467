"""Families of reading questions: each finds its candidates in one document; answers are re-derived from the evidence.

Every candidate's span covers all that must be read: a counted section is quoted whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

from stages.common.records import AnswerKind, Document, Span
from stages.common.text import collapse_blanks
from stages.synthesis.outline import Heading, children, lists
from stages.synthesis.outline import classes as _classes_of
from stages.synthesis.outline import headings as _headings_of

_MAX_SPAN_CHARACTERS = 12_000
_MAX_ANSWER_CHARACTERS = 80
_SENTENCE = re.compile(r"(?<=[.!?] )[A-Z][^.!?\n|#*_`\[\]{}<>\\]{60,200}[.!?](?=\s)")

_FILE_NAME = re.compile(r"\S*[-_.\d]\S*")

# Every family reads the same document after the other.
headings = lru_cache(maxsize=1)(_headings_of)
classes = lru_cache(maxsize=1)(_classes_of)


@dataclass(frozen=True)
class Candidate:
    """A question that could be asked. `key` is what may recur in other documents, so that it can be limited.

    others: further evidence of a question that one span does not answer.
    """

    family: str
    document_id: str
    start: int
    end: int
    question: str
    answer: str
    kind: AnswerKind
    key: str
    proof: dict[str, Any] = field(hash=False)
    others: tuple[Span, ...] = ()


Family = Callable[[Document], Iterator[Candidate]]


def heading_after(document: Document) -> Iterator[Candidate]:
    """Which heading comes directly after heading X."""
    found = headings(document.text)
    once = _once([heading.title for heading in found])
    for heading, following in pairwise(found):
        if heading.title in once and following.title in once:
            yield from _text_candidate(
                "heading_after",
                document,
                heading.start,
                following.end,
                f'In "{document.title}", which heading comes directly after the heading "{heading.title}"?',
                following.title,
                {"kind": "heading_after", "heading": heading.title},
            )


def last_subsection(document: Document) -> Iterator[Candidate]:
    """The last of the subsections of section X."""
    for heading, inside in _sections(document):
        yield from _text_candidate(
            "last_subsection",
            document,
            heading.start,
            heading.section_end,
            f'In "{document.title}", what is the heading of the last subsection of the section "{heading.title}"?',
            inside[-1].title,
            {"kind": "last_subsection", "heading": heading.title},
        )


def count_subsections(document: Document) -> Iterator[Candidate]:
    """How many subsections section X has."""
    for heading, inside in _sections(document):
        yield Candidate(
            "count_subsections",
            document.id,
            heading.start,
            heading.section_end,
            f'In "{document.title}", how many subsections does the section "{heading.title}" have?',
            str(len(inside)),
            AnswerKind.NUMBER,
            f"{heading.title}={len(inside)}",
            {"kind": "count_subsections", "heading": heading.title},
        )


def count_list_items(document: Document) -> Iterator[Candidate]:
    """How many items the list under heading X has."""
    found = headings(document.text)
    once = _once([heading.title for heading in found])
    for block in lists(document.text, found):
        if block.heading.title in once and block.end - block.heading.start <= _MAX_SPAN_CHARACTERS:
            yield Candidate(
                "count_list_items",
                document.id,
                block.heading.start,
                block.end,
                f'In "{document.title}", how many items does the list under the heading "{block.heading.title}" have?',
                str(block.items),
                AnswerKind.NUMBER,
                f"{block.heading.title}={block.items}",
                {"kind": "count_list_items", "heading": block.heading.title},
            )


def count_methods(document: Document) -> Iterator[Candidate]:
    """How many methods class X defines."""
    for outline in classes(document.text):
        if len(outline.methods) >= 2 and outline.end - outline.start <= _MAX_SPAN_CHARACTERS:
            yield Candidate(
                "count_methods",
                document.id,
                outline.start,
                outline.end,
                f'In "{document.title}", how many methods (def statements) does the body of the class '
                f'"{outline.name}" have?',
                str(len(outline.methods)),
                AnswerKind.NUMBER,
                f"{outline.name}={len(outline.methods)}",
                {"kind": "count_methods", "class": outline.name},
            )


def method_after(document: Document) -> Iterator[Candidate]:
    """Which method class X defines directly after method Y."""
    for outline in classes(document.text):
        once = _once([name for name, _ in outline.methods])
        for (name, _), (following, end) in pairwise(outline.methods):
            if name in once and following in once and not following.startswith("__"):
                yield from _text_candidate(
                    "method_after",
                    document,
                    outline.start,
                    end,
                    f'In "{document.title}", which method does the class "{outline.name}" define directly after '
                    f'the method "{name}"?',
                    following,
                    {"kind": "method_after", "class": outline.name, "method": name},
                )


def value_under(document: Document) -> Iterator[Candidate]:
    """What a short headed passage says (a key-value entry in words)."""
    found = headings(document.text)
    once = _once([heading.title for heading in found])
    for index, heading in enumerate(found):
        following = found[index + 1].start if index + 1 < len(found) else len(document.text)
        body = document.text[heading.end : following].strip()
        if heading.title not in once or "\n" in body or not 4 <= len(body) <= _MAX_ANSWER_CHARACTERS:
            continue
        letters = sum(character.isalpha() for character in body)
        if letters < 0.6 * len(body) or body.startswith(("-", "|", "!", "[")):
            continue
        end = document.text.index(body, heading.end) + len(body)
        yield from _text_candidate(
            "value_under",
            document,
            heading.start,
            end,
            f'What does "{document.title}" say under the heading "{heading.title}"{_parent(found, index)}?',
            body,
            {"kind": "value_under", "heading": heading.title},
        )


def which_document(document: Document) -> Iterator[Candidate]:
    """Which document says a sentence: the answer is a title. Whether the sentence is unique is checked by the stage.

    A title that is a file's name ("jnj-10K-2025-02-13") stands in no document, so it is not asked for.
    """
    if _FILE_NAME.fullmatch(document.title):
        return
    for match in _SENTENCE.finditer(document.text):
        sentence = match[0]
        if len(sentence.split()) >= 10 and document.text.count(sentence) == 1:
            yield from _text_candidate(
                "which_document",
                document,
                match.start(),
                match.end(),
                f'Which document says: "{sentence}" Give its title.',
                document.title,
                {"kind": "title_of", "sentence": sentence, "title": document.title},
            )


FAMILIES: dict[str, Family] = {
    "heading_after": heading_after,
    "count_subsections": count_subsections,
    "which_document": which_document,
    "count_methods": count_methods,
    "value_under": value_under,
    "method_after": method_after,
    "count_list_items": count_list_items,
    "last_subsection": last_subsection,
}

CODE_FAMILIES = frozenset({"count_methods", "method_after"})


def _once(titles: list[str]) -> set[str]:
    """Titles that occur once and are quotable."""
    times = Counter(titles)
    return {title for title in times if times[title] == 1 and 2 <= len(title) <= _MAX_ANSWER_CHARACTERS}


def _parent(found: list[Heading], index: int) -> str:
    """` of the section "X"`, where a heading stands below another one that is not the document's title: "by type" alone says little."""
    own = found[index]
    above = next((heading for heading in reversed(found[:index]) if heading.level < own.level), None)
    return f' of the section "{above.title}"' if above is not None and above.level > 1 else ""


def _sections(document: Document) -> Iterator[tuple[Any, list[Any]]]:
    """Sections with a unique heading, at least two subsections of one level, and a bounded length."""
    found = headings(document.text)
    once = _once([heading.title for heading in found])
    for index, heading in enumerate(found):
        if heading.title not in once or heading.section_end - heading.start > _MAX_SPAN_CHARACTERS:
            continue
        inside = children(found, index)
        if len(inside) >= 2:
            yield heading, inside


def _text_candidate(
    family: str, document: Document, start: int, end: int, question: str, answer: str, proof: dict[str, Any]
) -> Iterator[Candidate]:
    """The candidate, if its answer is a fair one: short, not a scrap, and not given away by the question."""
    plain = collapse_blanks(answer)
    if end - start > _MAX_SPAN_CHARACTERS or not 4 <= len(plain) <= _MAX_ANSWER_CHARACTERS:
        return
    if plain.lower() in collapse_blanks(question).lower() or not any(character.isalpha() for character in plain):
        return
    key = f"{question.replace(document.title, '')}={plain}"
    yield Candidate(family, document.id, start, end, question, plain, AnswerKind.TEXT, key, proof)
