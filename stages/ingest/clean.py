"""Normalises text before any offset into it is fixed: what `clean` returns is what every later span refers to.

Line ends become newlines, control characters and lone surrogates go, Unicode becomes NFC, and more than two blank lines in a
row become two. Nothing else changes, so tables, code and verse keep their shape.
"""

from __future__ import annotations

import html
import re
import unicodedata

from stages.ingest.reasons import DropReason, UnusableError

# Everything that str.splitlines splits at, so that "a line" means the same to every stage.
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
# Controls but tab and newline, the byte order mark, and surrogates (JSON escapes can make them; UTF-8 cannot hold them).
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){3,}")

# An entity of HTML in prose ("Rep&uacute;blica"). It is resolved where it stands for a character beyond ASCII: text about HTML
# keeps its &lt; and &amp;, and nothing can become markup.
_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#[0-9]{2,7}|#x[0-9A-Fa-f]{2,6});")

# Canonical ordering sorts each run of combining marks by insertion: 200,000 marks in a row take 25 seconds.
_MAX_COMBINING_RUN = 256
_LONG_NON_LATIN = re.compile(f"[^\x00-\u02ff]{{{_MAX_COMBINING_RUN + 1},}}")


def _refuse_long_combining_runs(text: str) -> None:
    for candidate in _LONG_NON_LATIN.finditer(text):
        run = 0
        for character in candidate.group():
            run = run + 1 if unicodedata.combining(character) else 0
            if run > _MAX_COMBINING_RUN:
                raise UnusableError(
                    DropReason.BAD_UNICODE, f"more than {_MAX_COMBINING_RUN} combining marks follow one character"
                )


def resolve_entities(text: str) -> str:
    """Prose in which entities such as `&eacute;` are the characters that they stand for; those of ASCII stay as they are."""

    def character(match: re.Match[str]) -> str:
        found = html.unescape(match[0])
        return found if len(found) == 1 and found > "\x9f" else match[0]

    return _ENTITY.sub(character, text) if "&" in text else text


def clean(text: str) -> str:
    """The text that becomes `Document.text`. Cleaning twice changes nothing more.

    Raises UnusableError (bad_unicode) for endless runs of combining marks.
    """
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    _refuse_long_combining_runs(text)
    text = unicodedata.normalize("NFC", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")
