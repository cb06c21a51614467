"""Splits a question into its core and its formatting instructions, by rules.

Paper section 2.3: the core is asked while reading, the form of the answer at the end.

    Who owns the key? Answer with the name only.    ->    core: Who owns the key?    instructions: Answer with the name only.

By rules: sentences and lines that begin as instructions about the answer do (English), and what a "Format:" or a colon announces.
Options belong to the core, since they say what to look for. Nothing of a question is lost or invented.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Literal, NamedTuple


class SplitQuery(NamedTuple):
    """Both parts as they stand in the question; instructions may be empty, the core is so only for an empty question."""

    core: str
    instructions: str


Splitter = Callable[[str], SplitQuery]
SplitBy = Literal["off", "rules", "model"]

_REPLY = r"(?:answer|response|reply|output|result|solution)s?"
_VERB = r"(?:give|provide|write|state|return|output|express|format|put|wrap|enclose|present|report|end|finish|begin|start|limit)"
_FORMS = (
    r"(?:answer|respond|reply)\s+(?:(?:only|briefly|concisely|shortly|directly|exactly|simply|just)\s+)?"
    r"(?:with|in|using|as|by|only|briefly|concisely|shortly|yes\b|true\b|to\s+the\s+point)\b",
    r"answer\s+the\s+(?:following\s+)?questions?\b(?!\s*[:?])",
    rf"{_VERB}\s+(?:me\s+)?(?:only\s+|just\s+)?(?:your|the|a|one|an)?\s*(?:final\s+|whole\s+|short\s+|single\s+)*{_REPLY}\b",
    rf"(?:your|the)\s+(?:final\s+)?{_REPLY}\s+(?:must|should|shall|has\s+to|have\s+to|needs?\s+to|is\s+to|will)\b",
    r"(?:only|just)\s+(?:output|return|give|answer|respond|reply|write|provide|state)\b",
    r"(?:output|return|give|write|provide|state)\s+(?:only|just|nothing\s+but)\b",
    r"(?:do\s+not|don't|never)\s+(?:give|provide|include|add|write|output|show)\s+(?:me\s+)?(?:any\s+|an\s+|other\s+|extra\s+|"
    r"additional\s+|further\s+|your\s+)*(?:explanations?|words?|text|comments?|reasoning|commentary|markdown|punctuation|prose)\b",
    r"(?:do\s+not|don't|never)\s+(?:explain|justify|elaborate|repeat\s+the\s+question)\b",
    r"no\s+(?:explanations?|other\s+words|extra\s+text|prose|commentary)\b",
    r"(?:let's\s+)?(?:think|reason)\s+step[\s-]by[\s-]step\b",
    r"round\s+(?:(?:your|the)\s+\w+\s+)?(?:to|up|down)\b",
    r"(?:be\s+(?:brief|concise)|keep\s+(?:it|your\s+\w+)\s+(?:short|brief|concise))\b",
    r"use\s+(?:valid\s+)?(?:json|xml|yaml|markdown|bullet\s+points|a\s+bulleted\s+list|semicolons|commas)\b",
    r"if\s+[^.!?\n]{0,160},\s*(?:please\s+)?(?:just\s+)?(?:answer|respond|reply|say|write|output|return)\b",
    rf"(?:(?:{_REPLY}|output|response|answer)\s+)?(?:format(?:ting)?)(?:\s+(?:instructions?|requirements?|rules?))?\s*:",
    r"(?:formatting\s+)?instructions?\s*:",
)
_INSTRUCTION = re.compile(
    r"[\s\-*•>#]*(?:\(?\d+[.)]\s+)?(?:please,?\s+|and\s+|also,?\s+|then\s+)?(?:" + "|".join(_FORMS) + ")", re.I
)
_HEADING = re.compile(r"[\s#*>]*(?:\w+\s+)?(?:format(?:ting)?|instructions?)(?:\s+\w+)?\s*:\s*\**\s*$", re.IGNORECASE)
_OPTION = re.compile(r"\s*(?:\(?[A-Z][.):]\)?|[-*•]\s+\(?[A-Z][.):]\)?)\s+\S")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+")


def split_query(question: str) -> SplitQuery:
    """The core question and its formatting instructions, by rules.

    A question that would be nothing but instructions is all core; one without instructions stays as it is.

    >>> split_query("Which key is red? Answer with one word.")
    SplitQuery(core='Which key is red?', instructions='Answer with one word.')
    """
    core: list[str] = []
    form: list[str] = []
    block = False  # what an instruction with a colon at its end announces, up to a blank line
    for line in question.splitlines(keepends=True):
        if not line.strip():
            block = False
            (form if form and not core else core).append(line)
            continue
        if block and not line.rstrip().endswith("?"):
            form.append(line)
            continue
        block = False
        if _OPTION.match(line):
            core.append(line)
            continue
        for sentence in _sentences(line):
            is_form = _INSTRUCTION.match(sentence) is not None or _HEADING.match(sentence) is not None
            # A question is never a formatting instruction: "Answer in which year?"
            is_form = is_form and not sentence.rstrip().endswith("?")
            (form if is_form else core).append(sentence)
            block = is_form and sentence.rstrip().endswith(":")
    found = SplitQuery("".join(core).strip(), "".join(form).strip())
    return found if found.core and found.instructions else SplitQuery(question, "")


def _sentences(line: str) -> list[str]:
    """The line's sentences; joined they are the line."""
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    places = [0, *[end for end in ends if end < len(line)], len(line)]
    return [line[start:end] for start, end in itertools.pairwise(places)]


def is_split_of(question: str, parts: SplitQuery) -> bool:
    """Whether the parts hold the question's words, each once and in order, and nothing else (blanks do not count)."""
    words, core, form = question.split(), parts.core.split(), parts.instructions.split()
    if len(words) != len(core) + len(form) or not core:
        return False
    reached = {0}  # words of the core used, after each word of the question
    for place, word in enumerate(words):
        going_on = {used + 1 for used in reached if used < len(core) and core[used] == word}
        going_on |= {used for used in reached if place - used < len(form) and form[place - used] == word}
        reached = going_on
    return len(core) in reached
