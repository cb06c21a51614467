"""Re-deriving the answers of reading questions from the quoted evidence (kinds listed in rederive.py)."""

from __future__ import annotations

import re
from collections.abc import Callable

from stages.common.records import Evidence, QAPair, Span
from stages.common.text import collapse_blanks
from stages.synthesis.outline import children, count_items, headings

TextOf = Callable[[Span], str]

# By text where the generator used the parser, so that the two check each other.
_DEF = re.compile(r"^([ \t]+)(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
_CLASS = re.compile(r"class[ \t]+(\w+)")


def _quote(qa: QAPair, text_of: TextOf) -> str:
    evidence: Evidence = qa.evidence[0]
    return text_of(Span(document_id=evidence.document_id, start=evidence.start, end=evidence.end))


def rederive_heading_after(qa: QAPair, text_of: TextOf) -> str | None:
    """The second heading of the quote, if the first is the one asked about."""
    found = headings(_quote(qa, text_of))
    return found[1].title if len(found) > 1 and found[0].title == qa.proof["heading"] else None


def rederive_last_subsection(qa: QAPair, text_of: TextOf) -> str | None:
    """The last subsection of the quoted section."""
    titles = _subsections(qa, text_of)
    return titles[-1] if titles else None


def rederive_count_subsections(qa: QAPair, text_of: TextOf) -> str | None:
    """How many subsections the quoted section has."""
    titles = _subsections(qa, text_of)
    return str(len(titles)) if titles else None


def _subsections(qa: QAPair, text_of: TextOf) -> list[str]:
    found = headings(_quote(qa, text_of))
    if not found or found[0].title != qa.proof["heading"]:
        return []
    return [heading.title for heading in children(found, 0)]


def rederive_count_list_items(qa: QAPair, text_of: TextOf) -> str | None:
    """How many items the list below the quoted heading has."""
    heading, _, block = _quote(qa, text_of).partition("\n")
    counted = count_items(block) if [found.title for found in headings(heading)] == [qa.proof["heading"]] else None
    return str(counted[0]) if counted else None


def rederive_count_methods(qa: QAPair, text_of: TextOf) -> str | None:
    """How many `def` lines the quoted class has at the indentation of its first method."""
    names = _methods(qa, text_of)
    return str(len(names)) if names else None


def rederive_method_after(qa: QAPair, text_of: TextOf) -> str | None:
    """The method after the named one in the quoted class."""
    names = _methods(qa, text_of)
    return names[names.index(qa.proof["method"]) + 1]


def _methods(qa: QAPair, text_of: TextOf) -> list[str]:
    quote = _quote(qa, text_of)
    name = _CLASS.match(quote)
    if name is None or name[1] != qa.proof["class"]:
        return []
    found = _DEF.findall(quote)
    return [method for indent, method in found if indent == found[0][0]]


def rederive_value_under(qa: QAPair, text_of: TextOf) -> str | None:
    """What stands below the quoted heading."""
    heading, _, body = _quote(qa, text_of).partition("\n")
    return collapse_blanks(body) if [found.title for found in headings(heading)] == [qa.proof["heading"]] else None


def rederive_title(qa: QAPair, text_of: TextOf) -> str | None:
    """The title, if the sentence is the quoted one and the question asks for it. checks.py compares the title."""
    sentence = qa.proof["sentence"]
    return str(qa.proof["title"]) if sentence == _quote(qa, text_of) and sentence in qa.question else None
