"""How a packed row is cut for attention on CUDA: long prompts as dense blocks, what remains as short ragged segments.

For each tree of a row (a prompt of P tokens, its branches behind it):

    trunk      the first `trunk` tokens of the prompt, a multiple of a coarse step, so that kernels which are built per
               shape are built a few times and not for every prompt; 0 for short prompts
    rest       the prompt's other tokens
    crown      rest and branches: contiguous in the row

Every query then sees one or two pieces, merged by their log-sum-exp:

    trunk queries       the trunk, causally                                           dense
    crown queries       the whole trunk                                               dense, not causal
    crown queries       rest + own branch up to themselves                            ragged, causal

The keys of the rest are gathered once per branch; those of the trunk never. A tree with one branch is one sequence: nothing
is shared, so it is ragged as a whole, with all others of its kind in one call, unless it is long. Turns of the memory agent and
supervised examples are such trees, many to a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.rl.packing import PackedRow

MIN_TRUNK_TOKENS = 2048  # below, one ragged call is faster than two dense ones
MIN_LONE_TRUNK_TOKENS = 16_384  # the same for a prompt with one branch or none


@dataclass(frozen=True)
class Trunk:
    """Tokens [start, end) of a row are a trunk; its crown is [end, crown_end)."""

    start: int
    end: int
    crown_end: int

    @property
    def crown_tokens(self) -> int:
        return self.crown_end - self.end


@dataclass(frozen=True)
class TreeLayout:
    """The cut of one row of T tokens.

    trunks: in row order. query_index_Q: places in the row of all crown tokens (int64), in row order; None: they are
    the tokens from `trunks[0].end` (or 0) to the end. key_index_K: places of the ragged keys, segment by segment; None: the
    same as the queries. cu_seq_q, cu_seq_k: int32 segment boundaries. max_q, max_k: longest segment, in tokens.
    """

    trunks: tuple[Trunk, ...]
    query_index_Q: Tensor | None
    key_index_K: Tensor | None
    first_query: int
    cu_seq_q: Tensor
    cu_seq_k: Tensor
    max_q: int
    max_k: int


def trunk_tokens(prompt_tokens: int, branches: int) -> int:
    """The trunk of a prompt: the largest multiple of a sixteenth of its power of two (at least 1,024) within it."""
    if prompt_tokens < (MIN_TRUNK_TOKENS if branches > 1 else MIN_LONE_TRUNK_TOKENS):
        return 0
    step = max(1024, (1 << (prompt_tokens.bit_length() - 1)) // 16)
    return prompt_tokens // step * step


def padded_tokens(tokens: int) -> int:
    """A length rounded up to a multiple of a sixteenth of its power of two (at least 128)."""
    step = max(128, (1 << (tokens.bit_length() - 1)) // 16)
    return -(-tokens // step) * step


def cut_row(row: PackedRow, device: torch.device) -> TreeLayout:
    """The layout of a row, its tensors on `device`; see the top of the file."""
    trunks: list[Trunk] = []
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    query_lengths: list[int] = []
    key_lengths: list[int] = []
    gathered = False
    for prompt, branches in _trees(row):
        prompt_start, prompt_end = prompt
        end = branches[-1][1] if branches else prompt_end
        trunk_end = prompt_start + trunk_tokens(prompt_end - prompt_start, len(branches))
        if trunk_end > prompt_start:
            trunks.append(Trunk(prompt_start, trunk_end, end))
        if trunk_end == end:
            continue
        queries.append(torch.arange(trunk_end, end))
        rest = torch.arange(trunk_end, prompt_end)
        if len(branches) <= 1 or not len(rest):
            segments = [(trunk_end, end)] if len(branches) <= 1 else branches
            keys.append(queries[-1])
            lengths = [stop - start for start, stop in segments if stop > start]
            query_lengths += lengths
            key_lengths += lengths
            continue
        gathered = True
        for start, stop in ((trunk_end, prompt_end), *branches):
            if stop > start:
                inside = torch.arange(start, stop)
                keys += [inside] if start == trunk_end else [rest, inside]
                query_lengths.append(stop - start)
                key_lengths.append(stop - start + (0 if start == trunk_end else len(rest)))
    query_index_Q = torch.cat(queries) if queries else torch.empty(0, dtype=torch.int64)
    first = int(query_index_Q[0]) if len(query_index_Q) else row.num_tokens
    contiguous = len(query_index_Q) == row.num_tokens - first
    return TreeLayout(
        trunks=tuple(trunks),
        query_index_Q=None if contiguous else query_index_Q.to(device),
        key_index_K=torch.cat(keys).to(device) if gathered else None,
        first_query=first,
        cu_seq_q=_boundaries(query_lengths).to(device),
        cu_seq_k=_boundaries(key_lengths).to(device),
        max_q=max(query_lengths, default=0),
        max_k=max(key_lengths, default=0),
    )


def _boundaries(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def _trees(row: PackedRow) -> list[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """(prompt span, branch spans) of every tree, in row order. Segments are contiguous; empty branches are left out."""
    counts = torch.bincount(row.segment_ids, minlength=len(row.parent_ids)).tolist()
    trees: list[tuple[tuple[int, int], list[tuple[int, int]]]] = []
    start = 0
    for count, parent in zip(counts, row.parent_ids.tolist(), strict=True):
        span = (start, start + count)
        start += count
        if parent < 0:
            trees.append((span, []))
        elif count:
            trees[-1][1].append(span)
    return trees
