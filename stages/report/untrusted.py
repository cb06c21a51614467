"""Text from documents and models on its way into the report: cut, cleaned, and quoted so that it stays text.

HTML needs no function here: the template escapes everything (jinja2 autoescape).
"""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 600


def readable(text: str, limit: int = MAX_CHARACTERS) -> str:
    """One line of at most `limit` characters; control and direction characters gone, a cut marked by `…`.

    A long text keeps its head and its tail, since questions stand at the end of a prompt and answers too.
    """
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c for c in text)
    kept = re.sub(r"\s+", " ", kept).strip()
    if len(kept) <= limit:
        return kept
    tail = limit // 3
    return f"{kept[: limit - tail].rstrip()} … {kept[-tail:].lstrip()}"


def markdown_code(text: str) -> str:
    """An inline code span that no back quote inside the text can end; inside it no markup, HTML or link is read."""
    if not text:
        return "(empty)"
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def markdown_cell(text: str) -> str:
    r"""Plain text for a Markdown table cell or paragraph: nothing in it is markup.

    >>> print(markdown_cell("a|b <i>"))
    a\|b &lt;i&gt;
    """
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", text)
