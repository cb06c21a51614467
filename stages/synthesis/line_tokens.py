"""Exact token counts of any part of a document without tokenizing it again: counts per line, made once, added up.

A document is cut where a line begins with something other than a blank. Tokenizers of the GPT-2, Llama 3 and Qwen kind
split a text before they merge, and always between a line's end and such a beginning (their patterns join at most a
blank to what follows it, and look ahead no further than "is the next character a blank?"). So the counts of such
segments add up: of a context its opening tags, its segments and its closing tags. An excerpt ends before the line's
end, and the closing tag follows: that is the segment's second count. What begins or ends elsewhere has its two edges
tokenized. `assemble` counts a part of its contexts as a whole, and if one differs (another kind of tokenizer), all.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.common.prompts import defuse_tags, opening_tag
from stages.common.tokens import TokenCounter

Ints = npt.NDArray[np.int32]

_BEGINNINGS = re.compile(r"^(?=\S)", re.MULTILINE)
_TAG_END = '">\n'  # of the opening tag above
_NEXT = "<"  # what follows every part of a context: the next tag


@dataclass(frozen=True)
class LineTokens:
    """Of one document: where segments begin (characters), where their text ends (blanks at the end left out), and
    their tokens: followed by the next segment (`tokens`, up to and including its line ends), or by a closing tag
    (`last_tokens`). `before[i]` is the sum of `tokens[:i]`.
    """

    starts: Ints
    text_ends: Ints
    before: npt.NDArray[np.int64]
    last_tokens: Ints

    @property
    def segments(self) -> int:
        return len(self.starts)

    def of_run(self, first: int, last: int) -> int:
        """Tokens of segments first..last inclusive, as an excerpt with the line end before its closing tag."""
        return int(self.before[last] - self.before[first]) + int(self.last_tokens[last])


class LineCounter:
    """Counts texts as they stand in a context: at a line's beginning, with a tag on the line after."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._next_tokens = counter.count(_NEXT)
        self.closing_tokens = self.line("</document>")

    def lines(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text (which ends with a line's end) when a tag follows."""
        found = self._counter.count_many([text + _NEXT for text in texts])
        return [tokens - self._next_tokens for tokens in found]

    def line(self, text: str) -> int:
        """Tokens of a text and a line's end when a tag follows."""
        return self.lines([text + "\n"])[0]

    def opening(self, title: str) -> int:
        """Tokens of a document's opening tag with its line's end."""
        return self.line(opening_tag(title))

    def whole(self, text: str) -> int:
        """Tokens of a text that nothing follows."""
        return self._counter.count(text)

    def segments(self, text: str) -> LineTokens:
        """Cut a document and count its segments (two passes over the text at most)."""
        plain = defuse_tags(text)  # character by character the same length
        starts = [match.start() for match in _BEGINNINGS.finditer(plain)]
        bounds = [*starts, len(plain)]
        whole = [plain[start:end] for start, end in itertools.pairwise(bounds)]
        stripped = [segment.rstrip() for segment in whole]
        ended = [segment if segment.endswith("\n") else segment.rstrip() + "\n" for segment in whole]
        tokens = self.lines(ended)
        shorter = [index for index, segment in enumerate(ended) if segment != stripped[index] + "\n"]
        last_tokens = list(tokens)
        for index, found in zip(shorter, self.lines([stripped[index] + "\n" for index in shorter]), strict=True):
            last_tokens[index] = found
        return LineTokens(
            starts=np.array(starts, dtype=np.int32),
            text_ends=np.array([s + len(t) for s, t in zip(starts, stripped, strict=True)], dtype=np.int32),
            before=np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)]),
            last_tokens=np.array(last_tokens, dtype=np.int32),
        )

    def recount(self, lines: LineTokens, text: str, first: int, last: int) -> int:
        """Tokens of segments first..last, tokenized as a whole: what `LineTokens.of_run` must equal."""
        return self.line(defuse_tags(text[lines.starts[first] : lines.text_ends[last]]))

    def span(self, lines: LineTokens, text: str, start: int, end: int) -> int:
        """Tokens of text[start:end] and a line's end when a tag follows: counts where they are known, else edges."""
        first = int(np.searchsorted(lines.starts, start))  # the first segment that begins at or after `start`
        last = int(np.searchsorted(lines.starts, end)) - 1  # the segment in which the last character stands
        if last < first:
            return self._edge(defuse_tags(text[start:end]) + "\n")
        edges = 0
        if start < lines.starts[first]:
            edges += self._edge(defuse_tags(text[start : lines.starts[first]]))
        if end == lines.text_ends[last]:
            return edges + lines.of_run(first, last)
        inner = int(lines.before[last] - lines.before[first])
        return edges + inner + self.line(defuse_tags(text[lines.starts[last] : end]))

    def _edge(self, text: str) -> int:
        """Tokens of the beginning of a part: blanks there may join the opening tag's line end."""
        if not text[:1].isspace():
            return self.lines([text])[0]
        with_tag, tag = self.lines([_TAG_END + text, _TAG_END])
        return with_tag - tag
