"""Reads `<memory>..</memory><plan>..</plan>` out of a turn's response, tolerantly.

Small models forget to close tags and repeat them. What can be understood is taken; what cannot is a parse failure,
which the agent counts and answers by keeping the old memory. Reasoning before the memory is not stored.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TAG = re.compile(r"<\s*(?P<close>/?)\s*(?P<name>memory|plan)\s*>", re.IGNORECASE)
_THINK_END = "</think>"


class ParsedTurn(NamedTuple):
    """Memory and plan of a response; the plan may be empty, the memory is not."""

    memory: str
    plan: str


def parse_turn(response: str) -> ParsedTurn | None:
    """Memory and plan, or None if there is no memory to be found.

    The rules, in order:
    - what stands before the last `</think>` is reasoning; an unclosed `<think>` is nothing but reasoning;
    - a memory runs from `<memory>` to its `</memory>`; of several, the last non-empty one counts;
    - a memory inside a memory belongs to the outer one, its tags are removed;
    - an unclosed memory ends at `<plan>` or at the end; a closed one wins over it, also one inside it (then a stray tag
      in the reasoning opened the outer one);
    - the plan is what follows `<plan>`, to `</plan>` or to the end; it may be missing;
    - an empty memory is a failure: it would erase everything.
    """
    if _THINK_END in response:
        response = response.rsplit(_THINK_END, 1)[-1]
    elif "<think>" in response:
        return None
    closed: list[tuple[int, int]] = []  # text of each outermost closed memory
    inner: list[tuple[int, int]] = []  # text of each innermost closed memory, for the case of a stray opening
    opened: list[int] = []
    unclosed: tuple[int, int] | None = None
    for tag in _TAG.finditer(response):
        if tag["name"].lower() == "plan":
            if not tag["close"] and opened:
                unclosed = (opened[0], tag.start())
                opened = []
        elif not tag["close"]:
            opened.append(tag.end())
        elif opened:
            span = (opened.pop(), tag.start())
            (inner if opened else closed).append(span)
    if opened:
        unclosed = (opened[0], len(response))
    candidates = [*([unclosed] if unclosed else []), *inner, *closed]
    for start, end in reversed(candidates):
        memory = _TAG.sub("", response[start:end]).strip()
        if memory:
            return ParsedTurn(memory, _plan_after(response, end))
    return None


def _plan_after(response: str, position: int) -> str:
    """The first plan that opens at or after `position`."""
    start = end = None
    for tag in _TAG.finditer(response, position):
        if tag["name"].lower() != "plan":
            continue
        if start is None and not tag["close"]:
            start = tag.end()
        elif start is not None and tag["close"]:
            end = tag.start()
            break
    return "" if start is None else _TAG.sub("", response[start:end]).strip()
