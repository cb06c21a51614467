"""The structure of a document that questions can be asked about: headings, lists, classes with their methods.

All offsets are characters of the document's text. Everything is found again from the text alone, so that an answer can
be re-derived from its evidence.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass

from stages.common.text import collapse_blanks

_MARKER = re.compile(r"#{1,6}(?=[ \t])")
_FENCES = ("```", "~~~")
_MAX_HEADING_CHARACTERS = 200
_CLASS = re.compile(r"^class[ \t]+(\w+)[^\n]*$", re.MULTILINE)
_ITEM = re.compile(r"^(?:[-*+]|\d{1,3}[.)])[ \t]+\S")
_MAX_CLASS_CHARACTERS = 20_000


@dataclass(frozen=True)
class Heading:
    """A Markdown heading; `end` is the end of its line, `section_end` where the next of its level or above begins."""

    level: int
    title: str
    start: int
    end: int
    section_end: int


@dataclass(frozen=True)
class ClassOutline:
    """A top-level Python class; `methods` are those of its body in order, with the end of their `def` line."""

    name: str
    start: int
    end: int
    methods: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ItemList:
    """A list of at least two items on lines of their own, and the heading under which it is the only one."""

    heading: Heading
    end: int
    items: int


def headings(text: str) -> list[Heading]:
    """Markdown headings outside fenced code, in order."""
    found = []
    position, fence = 0, ""
    for line in text.split("\n"):
        marker = _MARKER.match(line) if line.startswith("#") and len(line) <= _MAX_HEADING_CHARACTERS else None
        if fence:
            fence = "" if line.startswith(fence) else fence
        elif line.startswith(_FENCES):
            fence = line[:3]
        elif marker and (title := collapse_blanks(line[marker.end() :]).strip("#*_ ")):
            found.append((len(marker[0]), title, position, position + len(line.rstrip())))
        position += len(line) + 1
    # section_end: from the back, the nearest later heading of the same or a higher level.
    ends = [len(text)] * len(found)
    later: list[tuple[int, int]] = []  # (level, start), levels falling towards the top of the stack
    for index in range(len(found) - 1, -1, -1):
        level, _, start, _ = found[index]
        while later and later[-1][0] > level:
            later.pop()
        if later:
            ends[index] = later[-1][1]
        later.append((level, start))
    return [Heading(*entry, section_end=end) for entry, end in zip(found, ends, strict=True)]


def children(all_headings: list[Heading], index: int) -> list[Heading]:
    """The direct subsections of a heading: those of the smallest level that occurs inside its section."""
    parent = all_headings[index]
    inside = []
    for heading in all_headings[index + 1 :]:
        if heading.start >= parent.section_end:
            break
        inside.append(heading)
    level = min((heading.level for heading in inside), default=0)
    return [heading for heading in inside if heading.level == level]


def classes(text: str) -> list[ClassOutline]:
    """Top-level classes whose source parses on its own, with the methods that their body defines."""
    found = []
    for match in _CLASS.finditer(text):
        end = _block_end(text, match.end())
        source = text[match.start() : end]
        if len(source) > _MAX_CLASS_CHARACTERS:
            continue
        methods = _methods(source)
        if methods:
            placed = tuple((name, match.start() + offset) for name, offset in methods)
            found.append(ClassOutline(match[1], match.start(), end, placed))
    return found


def _block_end(text: str, position: int) -> int:
    """End of the indented block below a line: before the first later line that begins in column 0."""
    end = position
    while position < len(text):
        line_start = position + 1  # text[position] is the newline
        line_end = text.find("\n", line_start)
        line_end = len(text) if line_end < 0 else line_end
        line = text[line_start:line_end]
        if line.strip():
            # A closing bracket in column 0 still belongs to the signature above it.
            if line[0] not in " \t)]}":
                break
            end = line_end
        position = line_end
    return end


def _methods(source: str) -> list[tuple[str, int]]:
    """(name, offset of the end of the `def` line) of the methods in a class's source; empty if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.ClassDef):
        return []
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for node in tree.body[0].body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            return []  # methods defined under a condition: "how many" would be open to opinion
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.name, min(starts[node.lineno] - 1, len(source))))
    return found


def lists(text: str, all_headings: list[Heading]) -> list[ItemList]:
    """Lists that are the only one directly under a heading."""
    found = []
    for index, heading in enumerate(all_headings):
        following = all_headings[index + 1].start if index + 1 < len(all_headings) else len(text)
        counted = count_items(text[heading.end : following])
        if counted is not None:
            items, end = counted
            found.append(ItemList(heading, heading.end + end, items))
    return found


def count_items(block: str) -> tuple[int, int] | None:
    """(items, end of the last item's line) of a block that holds one list and after it no other; else None."""
    items, end, position, closed = 0, 0, 0, False
    for line in block.split("\n"):
        if _ITEM.match(line):
            if closed:
                return None
            items += 1
            end = position + len(line)
        elif line.strip() and items and not line.startswith((" ", "\t")):
            closed = True  # plain text after the list: what follows would be a second one
        elif line.strip() and items:
            if _ITEM.match(line.lstrip()):
                return None  # nested items: "how many" would be open to opinion
            end = position + len(line)
        position += len(line) + 1
    return (items, end) if items >= 2 else None
