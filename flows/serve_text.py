r"""A response as it comes, token by token, as text for a client: reasoning apart, stop strings cut, no half characters.

    "<think>", "it says", " 42", "</think>", "\n", "4", "2"   ->   reasoning "it says 42", content "42"

White space around the content is left out, as everywhere in the project. Streamed or whole, the text is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_OPEN, _CLOSE = "<think>", "</think>"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Delta:
    """New text of the content, or of the reasoning before it."""

    content: str = ""
    reasoning: str = ""


class AnswerText:
    """Takes a response's ids, gives its new text.

    decode: of the model's tokenizer. stop: texts at which the content ends, themselves left out. in_reasoning: the chat
    template has opened the reasoning. content, reasoning: all so far; stopped: a stop text was found.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = (), in_reasoning: bool = False) -> None:
        self.content = ""
        self.reasoning = ""
        self.stopped = False
        self._decode = decode
        self._stop = tuple(stop)
        self._state = "reasoning" if in_reasoning else "start"
        self._taken = 0  # ids whose text is out
        self._context = 0  # first of the ids that are decoded together: a token's text depends on its neighbours
        self._pending = ""  # text that may yet be part of a tag, a stop text or trailing white space

    def feed(self, ids: Sequence[int], last: bool = False) -> Delta:
        """What is new with these ids: all of the response so far. last: nothing more comes."""
        known = self._decode(ids[self._context : self._taken])
        text = self._decode(ids[self._context :])
        if last or (len(text) > len(known) and not text.endswith("\ufffd")):
            self._context, self._taken = self._taken, len(ids)
            self._pending += text[len(known) :]
        delta = self._advance(last)
        self.content += delta.content
        self.reasoning += delta.reasoning
        return delta

    def _advance(self, last: bool) -> Delta:
        if self._state == "start":
            begun = self._pending.lstrip()
            if begun.startswith(_OPEN):
                self._pending, self._state = begun[len(_OPEN) :], "reasoning"
            elif last or not _OPEN.startswith(begun):
                self._state = "content"
        reasoning = ""
        if self._state == "reasoning":
            before, mark, after = self._pending.partition(_CLOSE)
            if mark:
                self._state = "content"
            else:
                kept = 0 if last else _overlap(before, _CLOSE)
                before, after = before[: len(before) - kept], before[len(before) - kept :]
            reasoning, self._pending = before, after
        content = self._content(last) if self._state == "content" and not self.stopped else ""
        return Delta(content, reasoning)

    def _content(self, last: bool) -> str:
        text = self._pending if self.content else self._pending.lstrip()
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            text = text[: min(ends)]
        kept = 0 if last or ends else max((_overlap(text, stop) for stop in self._stop), default=0)
        out = text[: len(text) - kept].rstrip()
        self._pending = text[len(out) :]
        return out


def _overlap(text: str, mark: str) -> int:
    """Characters at the end of `text` that may be the beginning of `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
