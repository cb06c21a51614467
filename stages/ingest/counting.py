"""Tokens of long texts, counted piece by piece: the tokenizer keeps a hundred bytes per token of what it is given at once."""

from __future__ import annotations

import re

from stages.common.tokens import TokenCounter

_PIECE_CHARACTERS = 50_000
_BATCH = 8
# Tokenizers part a text at a line break before a letter anyway, so cutting there changes no count.
_CUT = re.compile(r"\n(?=\w)")


def count_tokens(counter: TokenCounter, text: str) -> int:
    """Tokens of a text of any length."""
    pieces = _pieces(text)
    return sum(sum(counter.count_many(pieces[start : start + _BATCH])) for start in range(0, len(pieces), _BATCH))


def _pieces(text: str) -> list[str]:
    pieces = []
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        cut = _CUT.search(text, start + _PIECE_CHARACTERS)
        if cut is None:
            break
        pieces.append(text[start : cut.end()])
        start = cut.end()
    return [*pieces, text[start:]]
