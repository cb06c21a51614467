"""Excerpts of documents: a span that must be whole, grown to a token budget along line and sentence boundaries.

A document is cut into pieces (lines; long lines into sentences; what is still long at blanks). An excerpt is a run of
neighbouring pieces. It first takes in the heading above the span, since "total: 5 km" says nothing without "Coastline",
then grows in both directions by a random share, so that the evidence may stand anywhere in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TokenOffsets = Callable[[str], list[tuple[int, int]]]

_MAX_PIECE_CHARACTERS = 240
_MAX_ORPHAN_CHARACTERS = 120
_CHARACTERS_PER_TOKEN = 5  # about what prose has; bounds how much of a document is looked at
_SENTENCE_END = re.compile(r"[.!?;]\s+")
_HEADING = re.compile(r"(#{1,6})[ \t]+\S")


@dataclass(frozen=True)
class Excerpt:
    """Characters [start, end) of a text and about how many tokens they are (sum over pieces)."""

    start: int
    end: int
    tokens: int


@dataclass(frozen=True)
class _Piece:
    start: int
    end: int
    tokens: int
    heading_level: int  # 0: no heading


def cut(text: str, low: int, high: int) -> list[int]:
    """Boundaries in [low, high] where an excerpt of the text may begin or end; low and high are among them."""
    boundaries = [low]
    position = low
    while position < high:
        newline = text.find("\n", position, high)
        line_end = high if newline < 0 else newline + 1
        boundaries += _inside_line(text, position, line_end)
        boundaries.append(line_end)
        position = line_end
    return boundaries


def _inside_line(text: str, start: int, end: int) -> list[int]:
    """Boundaries inside one line: none if it is short, else sentence ends, blanks, or any character as a last resort."""
    found = []
    while end - start > _MAX_PIECE_CHARACTERS:
        limit = start + _MAX_PIECE_CHARACTERS
        sentences = [match.end() for match in _SENTENCE_END.finditer(text, start + 1, limit)]
        blank = text.rfind(" ", start + 1, limit)
        start = sentences[-1] if sentences else (blank + 1 if blank > 0 else limit)
        found.append(start)
    return found


def excerpt_around(
    text: str,
    core: tuple[int, int],
    budget_tokens: int,
    max_tokens: int,
    offsets: TokenOffsets,
    chance: random.Random,
) -> Excerpt | None:
    """An excerpt that holds `core` whole, of about `budget_tokens` tokens and at most `max_tokens`.

    None if the core alone is longer than `max_tokens`. `offsets` gives the character span of each token of a text.
    """
    radius = max(budget_tokens * _CHARACTERS_PER_TOKEN, 2 * _MAX_PIECE_CHARACTERS)
    if core[1] - core[0] > 4 * max_tokens * _CHARACTERS_PER_TOKEN:
        return None
    low = _soft_start(text, max(0, core[0] - radius), core[0])
    high = _soft_end(text, core[1], min(len(text), core[1] + radius))
    pieces = _pieces(text, low, high, offsets)
    first = max(index for index, piece in enumerate(pieces) if piece.start <= core[0])
    last = max(first, max(index for index, piece in enumerate(pieces) if piece.start < max(core[1], core[0] + 1)))
    tokens = sum(piece.tokens for piece in pieces[first : last + 1])
    if tokens > max_tokens:
        tokens = len(offsets(text[core[0] : core[1]]))
        return Excerpt(core[0], core[1], tokens) if tokens <= max_tokens else None
    budget = min(max(budget_tokens, tokens), max_tokens)
    first, last = _grow(text, pieces, first, last, budget, chance)
    return _trimmed(text, core, pieces[first : last + 1])


def _soft_start(text: str, position: int, core_start: int) -> int:
    """Where to begin at or after `position`: a line's start, else a sentence's, else a word's, else right there."""
    if position == 0:
        return 0
    newline = text.find("\n", position - 1, core_start)
    if newline >= 0:
        return newline + 1
    sentence = _SENTENCE_END.search(text, position, core_start)
    if sentence:
        return sentence.end()
    blank = text.find(" ", position, core_start)
    return blank + 1 if blank >= 0 else position


def _soft_end(text: str, core_end: int, position: int) -> int:
    """Where to end at or before `position`, by the same order of preference."""
    if position == len(text):
        return position
    newline = text.rfind("\n", core_end, position)
    if newline >= 0:
        return newline + 1
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, core_end, position)]
    return sentences[-1] if sentences else max(core_end, text.rfind(" ", core_end, position))


def _pieces(text: str, low: int, high: int, offsets: TokenOffsets) -> list[_Piece]:
    boundaries = cut(text, low, high)
    counts = [0] * (len(boundaries) - 1)
    piece = 0
    for token_start, _ in offsets(text[low:high]):
        while piece + 1 < len(counts) and boundaries[piece + 1] <= low + token_start:
            piece += 1
        counts[piece] += 1
    pieces = []
    for start, end, tokens in zip(boundaries, boundaries[1:], counts, strict=False):
        match = _HEADING.match(text, start, end) if start == 0 or text[start - 1] == "\n" else None
        pieces.append(_Piece(start, end, tokens, len(match[1]) if match else 0))
    return pieces


def _grow(
    text: str, pieces: Sequence[_Piece], first: int, last: int, budget: int, chance: random.Random
) -> tuple[int, int]:
    """Indices of the grown run: headings above first, then a random share upwards, then down, then up again.

    Added pieces that say nothing at an end are given up again: a value without its heading, a heading without a value.
    """
    core_first, core_last = first, last
    left = budget - sum(piece.tokens for piece in pieces[first : last + 1])
    for target in _headings_above(pieces, first):
        cost = sum(piece.tokens for piece in pieces[target:first])
        if cost > left:
            break
        first, left = target, left - cost
    core_first = first
    up = int(left * chance.random())
    left -= up
    while first > 0 and pieces[first - 1].tokens <= up:
        first, up = first - 1, up - pieces[first - 1].tokens
    orphans = _orphans(text, pieces[first : core_first + 1])
    left += up + sum(piece.tokens for piece in pieces[first : first + orphans])
    first += orphans
    while last + 1 < len(pieces) and pieces[last + 1].tokens <= left:
        last, left = last + 1, left - pieces[last + 1].tokens
    while last > core_last and (pieces[last].heading_level or not text[pieces[last].start : pieces[last].end].strip()):
        last, left = last - 1, left + pieces[last].tokens
    return first, last


def _orphans(text: str, run: Sequence[_Piece]) -> int:
    """How many pieces stand before the run's first heading, if they are a short remainder such as a value; else 0."""
    headed = next((index for index, piece in enumerate(run) if piece.heading_level), 0)
    said = text[run[0].start : run[headed].start] if headed else ""
    return headed if len(said.strip()) <= _MAX_ORPHAN_CHARACTERS else 0


def _headings_above(pieces: Sequence[_Piece], first: int) -> list[int]:
    """Indices of the heading that governs the piece and of that heading's parent, as far as they are in reach."""
    found = []
    level = pieces[first].heading_level or 7
    for index in range(first - 1, -1, -1):
        if 0 < pieces[index].heading_level < level:
            found.append(index)
            level = pieces[index].heading_level
            if len(found) == 2:
                break
    return found


def _trimmed(text: str, core: tuple[int, int], run: Sequence[_Piece]) -> Excerpt:
    """The run without blank lines at its ends; the core is never cut."""
    start, end = run[0].start, run[-1].end
    while start < core[0] and text[start] in " \t\r\n":
        start += 1
    while end > core[1] and text[end - 1] in " \t\r\n":
        end -= 1
    return Excerpt(start, end, sum(piece.tokens for piece in run))


def excerpts_over(
    text: str,
    spans: Sequence[tuple[int, int]],
    budget_tokens: int,
    max_tokens: int,
    offsets: TokenOffsets,
    chance: random.Random,
) -> list[Excerpt] | None:
    """Excerpts in text order that together hold all spans and have at most `max_tokens` tokens; None if impossible.

    Spans that fit into one excerpt of the budget share it; others get one excerpt each, merged where they touch.
    """
    ordered = sorted(spans)
    union = (ordered[0][0], max(end for _, end in ordered))
    if len(ordered) == 1 or union[1] - union[0] <= max(budget_tokens, 1) * _CHARACTERS_PER_TOKEN:
        whole = excerpt_around(text, union, budget_tokens, max_tokens, offsets, chance)
        if whole is not None or len(ordered) == 1:
            return None if whole is None else [whole]
    groups = merge([(span[0], span[1]) for span in ordered])
    # Each group first at its least; what is left of the budget is shared.
    least = [excerpt_around(text, group, 0, max_tokens, offsets, chance) for group in groups]
    if any(part is None for part in least):
        return None
    total = sum(part.tokens for part in least if part is not None)
    if total > max_tokens:
        return None
    extra = max(0, min(budget_tokens, max_tokens) - total) // len(groups)
    parts = []
    for group, part in zip(groups, least, strict=True):
        assert part is not None
        grown = excerpt_around(text, group, part.tokens + extra, part.tokens + extra, offsets, chance)
        parts.append(grown or part)
    merged = merge([(part.start, part.end) for part in parts])
    return [Excerpt(start, end, len(offsets(text[start:end]))) for start, end in merged]


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Touching or overlapping spans joined."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
