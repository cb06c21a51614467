"""Keeps secrets out of what leaves the instance as text."""

from __future__ import annotations

import re
from collections.abc import Iterable

MARK = "[removed]"
_PATTERNS = (
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\b(?:sk|hf|ghp|gho|glpat|xoxb|xoxp)[-_][A-Za-z0-9_-]{16,}"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{16,}"),
    re.compile(
        r"(?i)((?:secret(?:_access)?(?:_key)?|(?:session|auth|access|hf|bearer)?_?token|password|api_?key)"
        r"[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]{8,}"
    ),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
_SHORTEST = 6  # a shorter value would blank out half of the log


class Redactor:
    """Replaces known secret values, and what looks like one."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = sorted({value for value in values if len(value) >= _SHORTEST}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, MARK)
        for pattern in _PATTERNS:
            text = pattern.sub(_blank, text)
        return text


def _blank(match: re.Match[str]) -> str:
    return (match[1] if match.re.groups else "") + MARK
