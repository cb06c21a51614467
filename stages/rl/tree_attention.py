"""Attention of prefix-tree rows on CUDA: two parts, merged by log-sum-exp, with an exact backward pass.

Forward: the parts of tree_layout.py are computed apart; a crown query's two results o1, o2 with log-sum-exps l1, l2 become
`softmax(l1, l2)`-weighted o, and l = logaddexp(l1, l2). Backward: a flash kernel needs a query's final output and log-sum-exp only
(p = exp(s - l), delta = rowsum(dO * O)), so each part's backward kernel gets the merged ones, and the parts' gradients add
up: the gradient is that of one softmax over all keys.

Dense parts go to cuDNN where it takes them (measured on an H200: twice as fast as the FlashAttention 2 inside torch, grouped
heads without copies), else to the latter; ragged parts always to the latter. Queries are padded to round lengths since
cuDNN plans are built per shape (0.1 s); a padded query has a zero gradient and so adds nothing.

Departure from other packers: no block mask and no compiled FlexAttention.

Shapes: T tokens of the row, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stages.rl.tree_layout import TreeLayout, Trunk, padded_tokens

_aten = torch.ops.aten
_NEVER = 1e9  # log-sum-exp of a padded query: exp(s - 1e9) is 0


def tree_attention(query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """Attention output [T, H, D] of a row (CUDA, bfloat16 or float16). Differentiable."""
    output: Tensor = _TreeAttention.apply(query_THD, key_TKD, value_TKD, layout, scale)
    return output


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float) -> Tensor:
        output = torch.empty_like(query)
        trunk_lse = []
        for trunk in layout.trunks:
            inside = slice(trunk.start, trunk.end)
            output[inside], lse = _dense_forward(query[inside], key[inside], value[inside], scale, causal=True)
            trunk_lse.append(lse)
        crown_lse = query.new_empty(0)
        if layout.max_q:
            crown, crown_lse = _ragged_forward(query, key, value, layout, scale)
            offset = 0
            for trunk in layout.trunks:
                offset = _crown_offset(layout, trunk)
                place = slice(offset, offset + trunk.crown_tokens)
                if trunk.crown_tokens:
                    part, lse = _dense_forward(
                        query[trunk.end : trunk.crown_end],
                        key[trunk.start : trunk.end],
                        value[trunk.start : trunk.end],
                        scale,
                        causal=False,
                    )
                    crown[place], crown_lse[:, place] = _merge(crown[place], crown_lse[:, place], part, lse)
            _put(output, crown, layout)
        ctx.save_for_backward(query, key, value, output, crown_lse, *trunk_lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, crown_lse, *trunk_lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        grad = grad.contiguous()
        grad_query, grad_key, grad_value = (torch.zeros_like(tensor) for tensor in (query, key, value))
        if layout.max_q:
            _ragged_backward(
                grad, query, key, value, output, crown_lse, layout, scale, grad_query, grad_key, grad_value
            )
        for trunk, lse in zip(layout.trunks, trunk_lse, strict=True):
            inside, crown = slice(trunk.start, trunk.end), slice(trunk.end, trunk.crown_end)
            parts = [(inside, lse, True)]
            if trunk.crown_tokens:
                offset = _crown_offset(layout, trunk)
                parts.append((crown, crown_lse[:, offset : offset + trunk.crown_tokens], False))
            for queries, part_lse, causal in parts:
                dq, dk, dv = _dense_backward(
                    grad[queries], query[queries], key[inside], value[inside], output[queries], part_lse, scale, causal
                )
                grad_query[queries] += dq
                grad_key[inside] += dk
                grad_value[inside] += dv
        return grad_query, grad_key, grad_value, None, None


def _crown_offset(layout: TreeLayout, trunk: Trunk) -> int:
    """Where a trunk's crown begins among all crown tokens: those before it are what earlier trunks are not."""
    before = sum(other.end - other.start for other in layout.trunks if other.start <= trunk.start)
    return trunk.end - before


def _merge(one: Tensor, one_lse: Tensor, two: Tensor, two_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [n, H, D] and log-sum-exps [H, n] of two disjoint sets of keys as those of their union."""
    lse = torch.logaddexp(one_lse, two_lse)
    weight_one = torch.exp(one_lse - lse).t()[:, :, None]
    weight_two = torch.exp(two_lse - lse).t()[:, :, None]
    return (one * weight_one + two * weight_two).to(one.dtype), lse


# Ragged part: FlashAttention 2 with segment boundaries, causal to the bottom right of each segment


def _take(tensor: Tensor, index: Tensor | None, first: int) -> Tensor:
    return tensor[first:] if index is None else tensor.index_select(0, index)


def _put(target: Tensor, values: Tensor, layout: TreeLayout) -> None:
    if layout.query_index_Q is None:
        target[layout.first_query :] = values
    else:
        target[layout.query_index_Q] = values


def _ragged_inputs(query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout) -> tuple[Tensor, Tensor, Tensor]:
    keys = layout.query_index_Q if layout.key_index_K is None else layout.key_index_K
    return (
        _take(query, layout.query_index_Q, layout.first_query),
        _take(key, keys, layout.first_query),
        _take(value, keys, layout.first_query),
    )


def _ragged_forward(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [Q, H, D] and log-sum-exp [H, Q] of all crown tokens over their ragged keys."""
    q, k, v = _ragged_inputs(query, key, value, layout)
    output, lse, *_ = _aten._flash_attention_forward(
        q, k, v, layout.cu_seq_q, layout.cu_seq_k, layout.max_q, layout.max_k, 0.0, True, False, scale=scale
    )
    return output, lse


def _ragged_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, layout: TreeLayout,
    scale: float, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor,
) -> None:  # fmt: skip
    """Fill the gradients with the ragged part's."""
    q, k, v = _ragged_inputs(query, key, value, layout)
    unused = torch.zeros(2, dtype=torch.uint64, device=grad.device)  # random state of a dropout that is not used
    dq, dk, dv = _aten._flash_attention_backward(
        _take(grad, layout.query_index_Q, layout.first_query), q, k, v,
        _take(output, layout.query_index_Q, layout.first_query), lse.contiguous(), layout.cu_seq_q, layout.cu_seq_k,
        layout.max_q, layout.max_k, 0.0, True, unused, unused, scale=scale,
    )  # fmt: skip
    _put(grad_query, dq, layout)
    if layout.key_index_K is None:
        _put(grad_key, dk, layout)
        _put(grad_value, dv, layout)
        return
    # A prompt's rest was gathered once per branch: its gradients add up, in float32.
    for target, part in ((grad_key, dk), (grad_value, dv)):
        total = torch.zeros_like(target, dtype=torch.float32)
        total.index_add_(0, layout.key_index_K, part.float())
        target.copy_(total)


# Dense part: cuDNN, else FlashAttention 2 with a single segment


def _dense_forward(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Output [n, H, D] and log-sum-exp [H, n] of n queries over all keys, or causally over their own."""
    length = len(query)
    if not _cudnn_takes(query):
        bounds_q, bounds_k = _one_segment(query), _one_segment(key)
        output, lse, *_ = _aten._flash_attention_forward(
            query, key, value, bounds_q, bounds_k, length, len(key), 0.0, causal, False, scale=scale
        )
        return output, lse
    q = _padded(query, 0.0) if not causal else query
    output, lse, *_ = _aten._cudnn_attention_forward(
        _heads_first(q), _heads_first(key), _heads_first(value), None, None, None, len(q), len(key), True, 0.0, causal,
        False, scale=scale,
    )  # fmt: skip
    return output[0].transpose(0, 1)[:length], lse[0, :, :length, 0]


def _dense_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; `output` and `lse` may be those of a larger set of keys."""
    length = len(query)
    unused = torch.zeros(2, dtype=torch.uint64, device=grad.device)
    if not _cudnn_takes(query):
        dq, dk, dv = _aten._flash_attention_backward(
            grad, query, key, value, output, lse.contiguous(), _one_segment(query), _one_segment(key), length, len(key),
            0.0, causal, unused, unused, scale=scale,
        )  # fmt: skip
        return dq, dk, dv
    if not causal:
        grad, query, output = _padded(grad, 0.0), _padded(query, 0.0), _padded(output, 0.0)
        lse = pad(lse, (0, len(query) - length), value=_NEVER)
    seed = torch.zeros((), dtype=torch.int64, device=grad.device)
    dq, dk, dv = _aten._cudnn_attention_backward(
        _heads_first(grad), _heads_first(query), _heads_first(key), _heads_first(value), _heads_first(output),
        lse.contiguous()[None, :, :, None], seed, seed, None, None, None, len(query), len(key), 0.0, causal, scale=scale,
    )  # fmt: skip
    return tuple(tensor[0].transpose(0, 1)[:size] for tensor, size in ((dq, length), (dk, len(key)), (dv, len(key))))


def _cudnn_takes(query: Tensor) -> bool:
    """Hopper and newer, head size at most 128 and a multiple of 8: what was measured and is exact."""
    return (
        query.shape[-1] <= 128 and query.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(query.device) >= (9, 0)
    )


def _heads_first(tensor_SHD: Tensor) -> Tensor:
    return tensor_SHD.transpose(0, 1)[None]


def _padded(tensor: Tensor, value: float) -> Tensor:
    return pad(tensor, (0, 0, 0, 0, 0, padded_tokens(len(tensor)) - len(tensor)), value=value)


def _one_segment(tensor: Tensor) -> Tensor:
    return torch.tensor([0, len(tensor)], dtype=torch.int32, device=tensor.device)
