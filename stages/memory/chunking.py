"""Cuts a document of any size into chunks of at most N tokens, at paragraph, line or sentence ends where it can.

The paper cuts at exact token counts; a cut inside a line would show half a table row or half a sentence to a turn that
cannot go back. So a chunk may be up to a quarter shorter than the limit if it then ends with a paragraph or a top-level
block of code, else with a line outside a table, else with any line, a sentence, a word. For a table that would be parted
and fits whole into the next chunk it may be up to three quarters shorter; a longer one is parted between rows. The chunks
joined together are the document, character by character, and only a chunk or two are in memory when it is a file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from stages.common.errors import InputError
from stages.common.fitting import CountTokens, longest_prefix
from stages.memory.tables import CutTable, between_rows, table_around

_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’)\]]*(?:\s+|(?<=[。！？]))")
_WORD_END = re.compile(r"\s+")
_KEPT_SHARE = 0.75  # a boundary is looked for in the last quarter of a chunk
_KEPT_BEFORE_TABLE = 0.25  # of a chunk that ends early so that a table is read whole
_PIECE_CHARACTERS = 1 << 16
_SPLICED_SLACK = 64  # tokens: from here on (chunks of 4,096) the error of a few is well within the slack
_SPLICES = 6
_TABLE_SLACK = 1_024  # characters
_MAX_CLUSTER = 32  # characters; longer runs of combining marks are cut


def iter_chunks(document: str | Path, chunk_tokens: int, count_tokens: CountTokens) -> Iterator[str]:
    """Yield the document's chunks in order.

    Args:
        document: the text, or a UTF-8 file of any size.
        chunk_tokens: a chunk has at most so many tokens, counted by itself. A single character that has more is still
            a chunk, so that the reading always goes on.
        count_tokens: tokens of a text, e.g. `lambda text: len(tokenizer.encode_text(text))`.

    Raises InputError if the file cannot be read or the text is not valid Unicode; ValueError if chunk_tokens < 1.
    """
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, not {chunk_tokens}")
    pieces = _pieces(document)
    buffer, ended = "", False
    characters_per_token = 4.0
    slack = chunk_tokens // 64  # a search to the last token is not worth its counts
    while True:
        wanted = int(1.5 * characters_per_token * chunk_tokens) + 1
        while True:
            while not ended and len(buffer) < wanted:
                piece = next(pieces, None)
                buffer, ended = (buffer, True) if piece is None else (buffer + piece, False)
            guess = max(1, int(characters_per_token * chunk_tokens))
            end = _longest_beginning(buffer, chunk_tokens, count_tokens, slack, guess)
            if end < len(buffer) or ended:
                break
            wanted = 2 * len(buffer)  # all of it fits: read on
        if not buffer:
            return
        end = max(end, 1)
        characters_per_token = min(64.0, max(0.25, end / chunk_tokens))
        cut = end if end == len(buffer) else _boundary(buffer, end)
        floor = int(end * _KEPT_BEFORE_TABLE)
        table = table_around(buffer, cut, floor) if cut < len(buffer) else None
        if table is not None and table.start is not None and table.end is None:
            while not ended and len(buffer) < 2 * end + _TABLE_SLACK:  # a table that fits may end so far on
                piece = next(pieces, None)
                buffer, ended = (buffer, True) if piece is None else (buffer + piece, False)
            table = table_around(buffer, cut, floor)
        if table is not None:
            cut = _beside(buffer, table, cut, chunk_tokens - slack, count_tokens, ended)
        while cut > 1 and count_tokens(buffer[:cut]) > chunk_tokens:
            cut = _boundary(buffer, cut - 1)  # rare: an earlier end can have more tokens than a later one
        yield buffer[:cut]
        buffer = buffer[cut:]


def _beside(text: str, table: CutTable, cut: int, limit_tokens: int, count_tokens: CountTokens, ended: bool) -> int:
    """A place for the cut that parts no table that fits into a chunk, else one between two of its rows, else `cut`.

    ended: the text ends where the document does.
    """
    end = len(text) if table.end is None and ended else table.end
    if table.start is not None and end is not None and count_tokens(text[table.start : end]) <= limit_tokens:
        return table.start
    return cut if table.row is None else table.row


def _longest_beginning(text: str, limit_tokens: int, count_tokens: CountTokens, slack_tokens: int, guess: int) -> int:
    """`longest_prefix`, but a large one is counted whole once: then only what a probe adds or takes away.

    So the tokens found may be wrong by a few; `iter_chunks` counts what it cuts.
    """
    if slack_tokens < _SPLICED_SLACK:
        return longest_prefix(text, limit_tokens, count_tokens, slack_tokens, guess)
    end = min(len(text), guess)
    tokens = count_tokens(text[:end])
    for _ in range(_SPLICES):
        if tokens <= limit_tokens and (end == len(text) or tokens >= limit_tokens - slack_tokens):
            return end
        wanted = (limit_tokens - slack_tokens / 2) / max(1, tokens)
        probe = max(1, min(len(text), round(end * wanted)))
        if probe > end:
            tokens += count_tokens(text[end:probe])
        else:
            tokens -= count_tokens(text[probe:end])
        end = probe
    return longest_prefix(text, limit_tokens, count_tokens, slack_tokens, end)  # a text whose density jumps


def _boundary(text: str, end: int) -> int:
    """The best place for a cut in the last quarter of text[:end]; `end` itself if there is none."""
    floor = int(end * _KEPT_SHARE)
    line_end = _line_boundary(text, floor, end)
    if line_end is not None:
        return line_end
    for pattern in (_SENTENCE_END, _WORD_END):
        found = [match.end() for match in pattern.finditer(text, floor, end)]
        if found and not _joined(text[found[-1] - 1], text[found[-1] : found[-1] + 1]):
            return found[-1]
    return _cluster_start(text, end)


def _line_boundary(text: str, floor: int, end: int) -> int | None:
    """The last of the best line ends in text[floor:end]: see `_rank`. None if no line ends there."""
    best, best_rank = None, 5
    cut = text.rfind("\n", floor, end) + 1
    while cut > floor:
        rank = _rank(text, cut)
        if rank < best_rank:
            best, best_rank = cut, rank
            if rank == 0:
                break
        cut = text.rfind("\n", floor, cut - 1) + 1
    return best


def _rank(text: str, cut: int) -> int:
    """How much a cut behind a line's end parts; 0 is best.

    0 a paragraph or a top-level block ends: a blank line before, no indented line after
    1 a blank line before
    2 no table goes on, no indented line follows
    3 no table goes on
    4 between two rows of a table
    """
    if between_rows(text, cut):
        return 4
    before = text[text.rfind("\n", 0, cut - 1) + 1 : cut - 1]
    after = text[cut : cut + 1]
    blank, indented = not before.strip(), after in (" ", "\t")
    return 2 * (not blank) + indented


def _cluster_start(text: str, end: int) -> int:
    """Move a cut back so that it does not part a character from its combining marks or joiners, or CR from LF."""
    start = end
    while start > max(1, end - _MAX_CLUSTER) and start < len(text) and _joined(text[start - 1], text[start]):
        start -= 1
    return end if start <= max(1, end - _MAX_CLUSTER) else start


def _joined(left: str, right: str) -> bool:
    if left == "\r" and right == "\n":
        return True
    joiners = "\u200d\ufe0e\ufe0f"  # zero-width joiner, variation selectors
    if not right:
        return False
    return right in joiners or left == "\u200d" or unicodedata.category(right) in ("Mn", "Mc", "Me")


def _pieces(document: str | Path) -> Iterator[str]:
    """The document in pieces of bounded size, its line ends untouched."""
    if isinstance(document, str):
        for start in range(0, len(document), _PIECE_CHARACTERS):
            piece = document[start : start + _PIECE_CHARACTERS]
            try:
                piece.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the document holds a lone surrogate at character {start + error.start}, which is no valid text. "
                    "Remove it, or read the file as UTF-8."
                ) from None
            yield piece
        return
    try:
        with document.open(encoding="utf-8", newline="") as file:
            while piece := file.read(_PIECE_CHARACTERS):
                yield piece
    except UnicodeDecodeError as error:
        raise InputError(f"{document} is not valid UTF-8 ({error.reason}). Convert it to UTF-8 text first.") from None
    except OSError as error:
        raise InputError(f"{document} cannot be read: {error.strerror}. Give a readable text file.") from None
