"""What is wrong with a text, in numbers: repetition, boilerplate, damage. Thresholds are applied later, so they can change cheaply.

After Gopher's rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1): repeated lines and repeated word 10-grams. Tables are left out of
both, since a column repeats its values by nature. What the rules do not see is named in docs/synthesis.md ("What the filters miss").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from stages.common.records import Record, Table
from stages.ingest.words import Hashes, gram_hashes

MAX_WORD_CHARACTERS = 50_000  # beyond any word, URL or line of Chinese prose: data that was pasted as text
_GRAM = 10
_BOILERPLATE = re.compile(
    r"(accept (all )?cookies|we use cookies|cookie (policy|settings|preferences)|enable javascript|javascript (is|must be)"
    r"|lorem ipsum|terms of (use|service) *[|·•-]|privacy policy *[|·•-]|all rights reserved\.?$|skip to (main )?content"
    r"|subscribe to our newsletter|sign up for our newsletter|share (this|on) (facebook|twitter|x|linkedin)"
    r"|click here to|log in *[|/] *(sign up|register)|back to top$|advertisement$|read more$|loading\.\.\.$)",
    re.IGNORECASE,
)
# U+FFFD; UTF-8 read as Windows-1252 or Latin-1 ("Ã©", "â€™", "Â "); private use; C1 controls cannot occur after cleaning.
_DAMAGE = re.compile(
    "[\ufffd\ue000-\uf8ff]|[ÃÂ][\u0080-\u00bf\u0152-\u0178\u2018-\u2122]|â€[\u0080-\u00bf\u0152-\u0178\u2018-\u2122]?|ï»¿|ï¿½"
)


class Quality(Record):
    """Shares lie in [0, 1]."""

    characters: int
    longest_word: int = Field(description="Longest run without white space, in characters.")
    duplicate_lines: float = Field(description="Share of the characters of lines that stood there before.")
    repeated_ngrams: float = Field(description="Share of words in a 10-gram that occurred before.")
    boilerplate: float = Field(description="Share of the characters of lines like cookie notices and menus.")
    damaged: float = Field(description="Share of replacement and wrongly decoded characters.")


def prose_of(text: str, tables: Sequence[Table]) -> str:
    """The text without its tables."""
    if not tables:
        return text
    ends = [0, *(table.end for table in tables)]
    starts = [*(table.start for table in tables), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def measure(text: str, prose: str, prose_words_N: Hashes) -> Quality:
    """The quality of a text; `prose_words_N` are the hashed words of `prose`."""
    seen: set[str] = set()
    total = duplicate = boilerplate = 0
    for raw in prose.split("\n"):
        line = raw.strip()
        if not line:
            continue
        total += len(line)
        if line in seen:
            duplicate += len(line)
        seen.add(line)
        if len(line) < 300 and _BOILERPLATE.search(line):
            boilerplate += len(line)
    damaged = 0 if text.isascii() else sum(len(match.group()) for match in _DAMAGE.finditer(text))
    return Quality(
        characters=len(text),
        longest_word=max(map(len, text.split()), default=0),
        duplicate_lines=_share(duplicate, total),
        repeated_ngrams=_repeated(prose_words_N),
        boilerplate=_share(boilerplate, total),
        damaged=_share(damaged, len(text)),
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _repeated(words_N: Hashes) -> float:
    grams_M = gram_hashes(words_N, _GRAM)
    if not len(grams_M):
        return 0.0
    again_M = np.ones(len(grams_M), dtype=np.int64)
    again_M[np.unique(grams_M, return_index=True)[1]] = 0  # the first of its kind
    covered = np.zeros(len(words_N) + 1, dtype=np.int64)
    covered[: len(grams_M)] += again_M
    covered[_GRAM : _GRAM + len(grams_M)] -= again_M
    return _share(int(np.count_nonzero(np.cumsum(covered)[:-1])), len(words_N))
