"""Excerpts of thousands of tokens by counts alone: runs of line segments that the survey has counted, nothing is tokenized.

For budgets that hold hundreds of lines; short excerpts (excerpts.py) are cut finer, at sentences, and keep headings.
"""

from __future__ import annotations

import random

import numpy as np

from stages.synthesis.excerpts import Excerpt
from stages.synthesis.line_tokens import LineTokens

LONG_TOKENS = 1024  # from here on, an excerpt that misses its budget by a paragraph is near enough


def long_excerpt(lines: LineTokens, core: tuple[int, int], budget_tokens: int, chance: random.Random) -> Excerpt | None:
    """A run of segments that holds `core` whole and has at most `budget_tokens` tokens, most of them used.

    None if the segments of the core alone have more, or if the core begins before the first segment. What is left is shared
    at random between before and after, so that the core may stand anywhere; at an end of the document the other side gets all.
    """
    first = int(np.searchsorted(lines.starts, core[0], side="right")) - 1
    last = max(first, int(np.searchsorted(lines.starts, core[1])) - 1)
    if first < 0 or lines.of_run(first, last) > budget_tokens or lines.text_ends[last] < core[1]:
        return None
    left = budget_tokens - lines.of_run(first, last)
    before, total = lines.before, int(lines.before[-1])
    ahead, behind = int(before[first]), total - int(before[last + 1])
    up = int(left * chance.random())
    up = min(max(up, left - behind), ahead)
    first = min(first, int(np.searchsorted(before, int(before[first]) - up)))
    # `before` is the sum up to a segment: the last one may take the run to the budget.
    reach = int(before[first]) + budget_tokens
    last = max(last, min(lines.segments, int(np.searchsorted(before, reach, side="right")) - 1) - 1)
    if lines.of_run(first, last) > budget_tokens:  # a count before a closing tag may be larger by one or two
        last -= 1
    if lines.text_ends[last] < core[1]:
        return None
    return Excerpt(int(lines.starts[first]), int(lines.text_ends[last]), lines.of_run(first, last))


def whole_document(lines: LineTokens) -> Excerpt | None:
    """All of a document without blanks at its ends; None if it is empty."""
    if not lines.segments:
        return None
    return Excerpt(int(lines.starts[0]), int(lines.text_ends[-1]), lines.of_run(0, lines.segments - 1))
