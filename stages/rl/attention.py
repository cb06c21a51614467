"""What a packed row needs from attention: each token sees its own segment up to itself, and all ancestors.

`tree_inputs` turns a row into the model's keyword arguments. Two paths read the same segment and parent ids:

    dense    a boolean mask [T, T] for transformers' SDPA: CPU, float32 and cards that FlashAttention does not know.
             Time and memory grow with T x T.
    tree     CUDA in 16 bits: `longfuse_tree`, registered through transformers' attention interface, so that any decoder
             which asks that interface is served (Qwen3, Qwen3-MoE, Llama). Memory grows with T (tree_attention.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface

from stages.rl.packing import PackedRow
from stages.rl.tree_attention import tree_attention
from stages.rl.tree_layout import cut_row

TREE = "longfuse_tree"
AttentionPath = Literal["dense", "tree"]


def attention_path(device: torch.device, dtype: torch.dtype) -> AttentionPath:
    """The path that a model of this type on this device takes."""
    sixteen_bits = dtype in (torch.bfloat16, torch.float16)
    return "tree" if device.type == "cuda" and sixteen_bits and _ampere_or_newer(device) else "dense"


def tree_inputs(row: PackedRow, device: torch.device, path: AttentionPath = "dense") -> dict[str, Any]:
    """Keyword arguments for a transformers decoder: input_ids, position_ids [1, T], and what its attention path reads.

    dense: attention_mask [1, 1, T, T]; a row of one sequence needs none, plain causal attention is faster.
    tree: the row's layout.
    """
    inputs: dict[str, Any] = {
        "input_ids": row.token_ids[None].to(device),
        "position_ids": row.position_ids[None].to(device),
    }
    if path == "tree":
        return inputs | {"attention_mask": None, "tree_layout": cut_row(row, device)}
    return inputs | {"attention_mask": None if is_one_sequence(row) else tree_mask(row)[None, None].to(device)}


@contextmanager
def attending(model: Any, path: AttentionPath) -> Iterator[None]:
    """Let the model's layers take `path` inside the block: forward, backward and what is computed again in it."""
    before = model.config._attn_implementation
    if path == "tree":
        model.config._attn_implementation = TREE
    try:
        yield
    finally:
        model.config._attn_implementation = before


def tree_attention_forward(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    tree_layout: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The registered function. query [1, H, T, D], key and value [1, K, T, D]; returns ([1, T, H, D], None)."""
    assert tree_layout is not None, "longfuse_tree is for rows made by tree_inputs"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_TKD, value_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return tree_attention(query_THD, key_TKD, value_TKD, tree_layout, scale)[None], None


AttentionInterface.register(TREE, tree_attention_forward)


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


def _ampere_or_newer(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)
