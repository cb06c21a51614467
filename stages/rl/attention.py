"""What a packed row needs from attention: each token sees its own segment up to itself, and all ancestors.

`tree_inputs` turns a row into the model's keyword arguments. Today there is one path, a dense boolean mask for
transformers' SDPA, which costs T x T per row; a variable-length CUDA path will be a second branch here, chosen by the
device, reading the same segment and parent ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.rl.packing import PackedRow


def tree_inputs(row: PackedRow, device: torch.device) -> dict[str, Tensor | None]:
    """Keyword arguments for a transformers decoder: input_ids, position_ids [1, T] and attention_mask [1, 1, T, T].

    A row of one sequence needs no mask: plain causal attention is faster.
    """
    return {
        "input_ids": row.token_ids[None].to(device),
        "position_ids": row.position_ids[None].to(device),
        "attention_mask": None if is_one_sequence(row) else tree_mask(row)[None, None].to(device),
    }


def is_one_sequence(row: PackedRow) -> bool:
    """True if the row's tokens are one sequence: a single prompt with at most one branch."""
    return len(row.parent_ids) <= 2 and bool((row.position_ids == torch.arange(row.num_tokens)).all())


def tree_mask(row: PackedRow) -> Tensor:
    """Boolean [T, T], True where query (row) may read key (column)."""
    sees_SS = ancestors_or_self(row.parent_ids)
    causal_TT = torch.ones(row.num_tokens, row.num_tokens, dtype=torch.bool).tril_()
    return causal_TT & sees_SS[row.segment_ids[:, None], row.segment_ids[None, :]]


def ancestors_or_self(parent_ids: Tensor) -> Tensor:
    """Boolean [S, S], True where the column's segment is the row's segment or one of its ancestors."""
    sees_SS = torch.eye(len(parent_ids), dtype=torch.bool)
    for segment, parent in enumerate(parent_ids.tolist()):
        if parent >= 0:
            sees_SS[segment] |= sees_SS[parent]  # a parent stands before its children
    return sees_SS
