"""What can be checked of a self-evolved question without any model, when it is made and ever after.

Proof: {kind: mase, family, level, answer, documents, solver, verdict: equal | judged, closed_book}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from stages.common.records import QAPair, Span
from stages.rewards.rules import normalise

TextOf = Callable[[Span], str]

_SUPPORTED_SHARE = 0.5
_STEM = 6  # letters by which "closed" and "closure" are one word
_WORD = re.compile(r"\w+")
_SMALL_WORDS = (
    "a an the of in on at to for by with from and or but not is are was were be been it its their his her they that this "
    "these those which who as than then would could should will may might must can do does did has have had"
)


def answer_in_question(answer: str, question: str) -> bool:
    """True if the question holds the answer as whole words."""
    return f" {' '.join(_WORD.findall(answer.lower()))} " in f" {' '.join(_WORD.findall(question.lower()))} "


def supported(answer: str, quotes: Sequence[str]) -> bool:
    """At least half of the answer's words that carry meaning stand in the quotes, and every number of it."""
    said = _WORD.findall(" ".join(quotes).lower().replace(",", ""))
    words = [word for word in _WORD.findall(answer.lower().replace(",", "")) if word not in _SMALL_WORDS.split()]
    if not words:
        return False
    if any(word.isdigit() and word not in said for word in words):
        return False
    stems = {word[:_STEM] for word in said}
    return sum(word[:_STEM] in stems for word in words) >= _SUPPORTED_SHARE * len(words)


def rederive_mase(qa: QAPair, text_of: TextOf) -> str | None:
    """The proof's answer, if all that can be checked without a model holds.

    The quotes stand where the evidence says and bear the answer, the answer is not in the question, and solver and
    verifier agreed when it was made.
    """
    answer = qa.proof["answer"]
    if qa.proof["verdict"] not in ("equal", "judged") or not isinstance(answer, str) or not qa.evidence:
        return None
    quotes = [text_of(item) for item in qa.evidence]
    if quotes != [item.quote for item in qa.evidence] or not supported(answer, quotes):
        return None
    if qa.proof["verdict"] == "equal" and normalise(str(qa.proof["solver"])) != normalise(answer):
        return None
    return None if answer_in_question(answer, qa.question) else answer
