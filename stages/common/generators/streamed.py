"""Texts of millions of tokens written to disk piece by piece: hay from a corpus, and passages hidden at given depths.

Only one piece is in memory. Tokens are counted piece by piece (a piece ends with a line), so the file's own count may
differ by a few tokens per hundred pieces; both writer and count are deterministic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.fitting import CountTokens, longest_prefix
from stages.common.prompts import defuse_tags
from stages.common.storage import DocumentStore
from stages.common.turns import parse_turns

_PIECE_CHARACTERS = 1_000  # of hay: small against a chunk, large against a call of the tokenizer


@dataclass(frozen=True)
class Passage:
    """A text to be hidden. depth: 0 (beginning) to 1 (end), in tokens; text: whole lines without the last line's end."""

    depth: float
    text: str


@dataclass(frozen=True)
class Written:
    """What was written: tokens by piece, characters, and where each passage begins (characters), in order of depth."""

    tokens: int
    characters: int
    starts: tuple[int, ...]


def write_streamed(
    path: Path,
    hay: Iterator[str],
    passages: Sequence[Passage],
    tokens: int,
    count_tokens: CountTokens,
    joint: str = "\n\n",
) -> Written:
    """Write about `tokens` tokens: pieces of `hay`, the passages between them at their depths, in order of depth.

    joint: what stands between pieces. Passages of equal depth keep their order. The file appears under its name when it
    is whole. ValueError if the passages alone have more tokens, or the hay ends early.
    """
    ordered = sorted(passages, key=lambda passage: passage.depth)
    room = tokens - sum(count_tokens(passage.text + joint) for passage in ordered)
    if room < 0:
        raise ValueError(f"{tokens} tokens cannot hold passages of {tokens - room}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    starts: list[int] = []
    used = characters = 0
    with partial.open("w", encoding="utf-8", newline="") as file:

        def put(text: str) -> None:
            nonlocal characters
            file.write(text)
            characters += len(text)

        waiting = 0
        while True:
            while waiting < len(ordered) and used >= ordered[waiting].depth * room:
                starts.append(characters)
                put(ordered[waiting].text + joint)
                waiting += 1
            if used >= room:
                break
            piece = next(hay, None)
            if piece is None:
                raise ValueError(f"the hay ended after {used} of {room} tokens")
            piece += joint
            length = count_tokens(piece)
            if used + length > room:
                # A passage may follow, on a line of its own.
                piece = piece[: longest_prefix(piece, room - used - 1, count_tokens, slack_tokens=1)].rstrip() + "\n"
                length = room - used  # give or take a token or two
            put(piece)
            used += length
    partial.replace(path)
    return Written(tokens - room + used, characters, tuple(starts))


def endless_hay(
    documents: DocumentStore, ids: Sequence[str], chance: random.Random, avoid: Sequence[str] = ()
) -> Iterator[str]:
    """Paragraphs of documents, several together, without end: the documents come round again in another order.

    avoid: paragraphs that hold one of these are left out, so that the hay says nothing about what is asked. Line ends
    inside a piece stay; our own tags are defused. ValueError if there is no text at all.
    """
    return _endless(documents, ids, chance, avoid, lambda text: text.split("\n\n"), "\n\n")


def endless_talk(
    documents: DocumentStore, ids: Sequence[str], chance: random.Random, avoid: Sequence[str] = ()
) -> Iterator[str]:
    """The same of the turns of conversations, one line each."""
    return _endless(documents, ids, chance, avoid, lambda text: [turn.line for turn in parse_turns(text)], "\n")


def _endless(
    documents: DocumentStore,
    ids: Sequence[str],
    chance: random.Random,
    avoid: Sequence[str],
    parts_of: Callable[[str], Sequence[str]],
    joint: str,
) -> Iterator[str]:
    while True:
        empty = True
        for document_id in chance.sample(list(ids), k=len(ids)):
            parts = parts_of(defuse_tags(documents[document_id].text))
            for piece in _pieces([part for part in parts if not any(name in part for name in avoid)], joint):
                empty = False
                yield piece
        if empty:
            raise ValueError("the documents hold no text")


def _pieces(parts: Sequence[str], joint: str) -> Iterator[str]:
    """Consecutive parts, at least so many characters together."""
    piece = ""
    for part in parts:
        if not part.strip():
            continue
        piece = f"{piece}{joint}{part}" if piece else part
        if len(piece) >= _PIECE_CHARACTERS:
            yield piece
            piece = ""
    if piece:
        yield piece


Write = Callable[[Path], Written]
