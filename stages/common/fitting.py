"""Cutting text to a number of tokens, with nothing but a function that counts tokens.

Works with any tokenizer and never splits a character. A count is not additive (a cut inside a word changes its
tokens), so every cut is verified by counting the cut text itself.
"""

from __future__ import annotations

from collections.abc import Callable

CountTokens = Callable[[str], int]


def longest_prefix(
    text: str, limit_tokens: int, count_tokens: CountTokens, slack_tokens: int = 0, guess_characters: int = 0
) -> int:
    """Characters of a prefix of at most `limit_tokens` tokens that cannot be much longer.

    slack_tokens: stop searching once the prefix has at least `limit_tokens - slack_tokens` tokens.
    guess_characters: where to look first; 0: four characters a token.
    Returns 0 if not even the first character fits. About three counts of the prefix with some slack, log2(n) without.
    """
    if limit_tokens <= 0 or not text:
        return 0
    low, low_tokens = 0, 0
    high, high_tokens = 0, 0  # 0: no prefix that is too long is known yet
    probe = min(len(text), guess_characters or 4 * limit_tokens)
    while True:
        tokens = count_tokens(text[:probe])
        if tokens <= limit_tokens:
            low, low_tokens = probe, tokens
            if low == len(text) or low_tokens >= limit_tokens - slack_tokens > 0:
                return low
        else:
            high, high_tokens = probe, tokens
        if high and high - low <= 1:
            return low
        if not high:
            probe = min(len(text), max(low + 1, low * limit_tokens // max(1, low_tokens) * 9 // 8, low * 5 // 4))
            continue
        # Interpolate, but stay in the middle half of the interval, so that it shrinks by a quarter at least.
        share = (limit_tokens - slack_tokens / 2 - low_tokens) / max(1, high_tokens - low_tokens)
        probe = low + round((high - low) * min(0.75, max(0.25, share)))
        probe = min(high - 1, max(low + 1, probe))


def longest_suffix(text: str, limit_tokens: int, count_tokens: CountTokens) -> int:
    """Where a suffix of at most `limit_tokens` tokens begins (`len(text)` if nothing fits)."""
    reverse = longest_prefix(text[::-1], limit_tokens, lambda part: count_tokens(part[::-1]), slack_tokens=2)
    return len(text) - reverse


def cut_to_tokens(text: str, limit_tokens: int, count_tokens: CountTokens, notice: str = "") -> str:
    """The text if it has at most `limit_tokens` tokens, else a prefix ending with `notice`, together within the limit.

    The notice is left out where it would take more than half of the limit.
    """
    if count_tokens(text) <= limit_tokens:
        return text
    if count_tokens(notice) > limit_tokens // 2:
        notice = ""
    room = limit_tokens - count_tokens(notice)
    while room > 0:
        cut = text[: longest_prefix(text, room, count_tokens)].rstrip() + notice
        if count_tokens(cut) <= limit_tokens:
            return cut
        room -= 1  # the notice did not join the text as cheaply as it counts alone
    return ""
