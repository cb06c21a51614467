"""Small text rules that rewards, synthesis and the memory agent share."""

from __future__ import annotations

import re

_THINK_END = "</think>"
_ANSWER_MARKS = ("the answer is", "final answer:")


def strip_reasoning(text: str) -> str:
    """What follows the last `</think>`; the whole text if there is none."""
    return text.rsplit(_THINK_END, 1)[-1].strip() if _THINK_END in text else text.strip()


def final_answer(text: str) -> str:
    """The answer part of a response: reasoning stripped, then what follows the last answer mark, if any.

    "...Therefore, the answer is (42)." -> "42"
    """
    text = strip_reasoning(text).replace("*", "")
    lowered = text.lower()
    cut = max((lowered.rfind(mark) + len(mark) for mark in _ANSWER_MARKS if mark in lowered), default=0)
    answer = text[cut:].strip()
    if cut:
        answer = answer.removeprefix(":").strip()
        answer = answer.removesuffix(".").strip()
        # Only one bracket pair around the whole answer belongs to the form "(...)", not "(a) and (b)".
        if re.fullmatch(r"\([^()]*\)", answer):
            answer = answer[1:-1].strip()
    return answer


def collapse_blanks(text: str) -> str:
    """Runs of white space become one blank."""
    return re.sub(r"\s+", " ", text).strip()
