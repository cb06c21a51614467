"""The language of a text (ISO 639-1), recognised on samples from its beginning, middle and end."""

from __future__ import annotations

import re

_SAMPLE_CHARACTERS = 1500
_MIN_LETTERS = 40  # fewer say nothing
_COMMENT = re.compile(r'"""(.{20,2000}?)"""|#[ \t]*([^\n]{20,200})', re.DOTALL)


def language_of(prose: str, is_code: bool) -> str:
    """`en`, `de`, ...; empty if it cannot be told. Of code, comments and docstrings count."""
    from py3langid import classify  # its model takes half a second to load

    sample = " ".join(_samples(prose))
    if is_code:
        found = (match[1] or match[2] for match in _COMMENT.finditer(prose[:100_000]))
        sample = " ".join(text for text in found if not text.startswith("file: "))[: 3 * _SAMPLE_CHARACTERS]
    if sum(character.isalpha() for character in sample) < _MIN_LETTERS:
        return ""
    code, _ = classify(sample)
    return code if len(code) == 2 else ""  # three letters: a language that has no code in ISO 639-1, or none


def _samples(text: str) -> list[str]:
    middle = max(len(text) // 2, _SAMPLE_CHARACTERS)
    end = max(len(text) - _SAMPLE_CHARACTERS, middle + _SAMPLE_CHARACTERS)
    return [text[start : start + _SAMPLE_CHARACTERS] for start in (0, middle, end)]
