"""Ulysses sequence parallelism for prefix-tree rows: S processes share one row of T tokens.

    outside attention    each process holds T / S tokens, all heads          embeddings, projections, MLP, experts
    inside attention     each process holds all T tokens, H / S heads        the tree attention of one row, unchanged
    LM head              each process scores N / S of the row's N scored tokens

Two all-to-alls per attention change token shards into head shards and back; a third hands each process the hidden states
that it scores. A sum over the processes' partial losses is the row's loss, so gradients, summed over all processes as
for data parallelism, are exact. With fewer key heads than processes the key heads are repeated.

Why not DeepSpeed's Ulysses: its attention for transformers drops the mask and its masks are made from position ids, which
restart at every branch of a prefix tree; it shards the batch in a data loader, whereas a row is cut after packing, and it
wants labels shifted and sharded with the tokens, whereas a prompt's last token has several targets here.

Shapes: T tokens of the row (padded), S processes, H query heads, K key heads, D head size, N scored tokens, C hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from stages.common.errors import ConfigError
from stages.rl.attention import AttentionPath, tree_attention_forward, tree_mask
from stages.rl.distributed import World
from stages.rl.packing import PackedRow
from stages.rl.tree_layout import cut_row

ULYSSES = "longfuse_ulysses"


@dataclass(frozen=True)
class SequenceGroup:
    """The processes that share rows. group: of torch.distributed. rank: of this process in it. size: S."""

    group: Any
    rank: int
    size: int

    def share(self, length: int) -> slice:
        """This process's part of `length` things, in order; parts differ by at most one."""
        return slice(self.rank * length // self.size, (self.rank + 1) * length // self.size)


@dataclass(frozen=True)
class RowShare:
    """What attention needs to know about the row whose shard it is given. mask_TT or tree_layout, by the path."""

    sequence: SequenceGroup
    mask_TT: Tensor | None
    tree_layout: Any


def sequence_group(world: World, size: int) -> SequenceGroup | None:
    """The group of neighbouring processes that this one shares rows with; None: it has its rows for itself."""
    if world.size % size:
        raise ConfigError(
            f"train.distributed.sequence_parallel is {size}, but {world.size} processes train: set it to a divisor of "
            "that number, or train.distributed.processes to a multiple of it."
        )
    if size == 1:
        return None
    mine = None
    for start in range(0, world.size, size):  # every process takes part in making every group
        group = dist.new_group(list(range(start, start + size)))
        if start <= world.rank < start + size:
            mine = SequenceGroup(group, world.rank - start, size)
    return mine


def check_heads(config: Any, size: int) -> None:
    """ConfigError if the model's query heads cannot be divided by `size` processes."""
    heads = config.num_attention_heads
    if heads % size:
        raise ConfigError(
            f"train.distributed.sequence_parallel is {size}, but the model has {heads} attention heads: set it to a "
            "divisor of that number."
        )


def pad_row(row: PackedRow, multiple: int) -> PackedRow:
    """The row with tokens appended until `multiple` divides its length: a tree of its own that nobody scores."""
    missing = -row.num_tokens % multiple
    if not missing:
        return row
    return replace(
        row,
        token_ids=torch.cat([row.token_ids, row.token_ids.new_zeros(missing)]),
        position_ids=torch.cat([row.position_ids, torch.arange(missing)]),
        segment_ids=torch.cat([row.segment_ids, row.segment_ids.new_full((missing,), len(row.parent_ids))]),
        parent_ids=torch.cat([row.parent_ids, row.parent_ids.new_full((1,), -1)]),
    )


def shard_inputs(row: PackedRow, device: torch.device, path: AttentionPath, sequence: SequenceGroup) -> dict[str, Any]:
    """Keyword arguments for a transformers decoder whose attention is `ULYSSES`: this process's tokens of the row."""
    row = pad_row(row, sequence.size)
    mine = sequence.share(row.num_tokens)
    tree = path == "tree"
    share = RowShare(
        sequence,
        None if tree else tree_mask(row).to(device),
        cut_row(row, device) if tree else None,
    )
    return {
        "input_ids": row.token_ids[None, mine].to(device),
        "position_ids": row.position_ids[None, mine].to(device),
        "attention_mask": None,
        "row_share": share,
    }


def ulysses_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    row_share: RowShare | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The registered function. query [1, H, T/S, D], key and value [1, K, T/S, D]; returns ([1, T/S, H, D], None)."""
    assert row_share is not None, "longfuse_ulysses is for rows made by shard_inputs"
    sequence = row_share.sequence
    repeats = _key_repeats(query.shape[1], key.shape[1], sequence.size)
    query_HTD = _heads_of_all_tokens(query[0], sequence)
    key_KTD = _heads_of_all_tokens(key[0].repeat_interleave(repeats, dim=0), sequence)
    value_KTD = _heads_of_all_tokens(value[0].repeat_interleave(repeats, dim=0), sequence)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if row_share.tree_layout is not None:
        output, _none = tree_attention_forward(
            module, query_HTD[None], key_KTD[None], value_KTD[None], None, scale, row_share.tree_layout
        )
        output_HTD = output[0].transpose(0, 1)
    else:
        groups = query_HTD.shape[0] // key_KTD.shape[0]
        output_HTD = scaled_dot_product_attention(
            query_HTD[None],
            key_KTD.repeat_interleave(groups, dim=0)[None],
            value_KTD.repeat_interleave(groups, dim=0)[None],
            attn_mask=row_share.mask_TT,
            scale=scale,
        )[0]
    return _tokens_of_all_heads(output_HTD, sequence)[None], None


AttentionInterface.register(ULYSSES, ulysses_attention_forward)


def scored_hidden(hidden_TC: Tensor, hidden_index_N: Tensor, sequence: SequenceGroup) -> Tensor:
    """Hidden states [N/S, C] that this process scores: rows `hidden_index_N[sequence.share(N)]` of the whole row.

    hidden_TC: this process's shard [T/S, C]. Differentiable.
    """
    shard = hidden_TC.shape[0]
    owner_N = hidden_index_N // shard
    wanted = [
        SequenceGroup(sequence.group, rank, sequence.size).share(len(hidden_index_N)) for rank in range(sequence.size)
    ]
    send = [hidden_index_N[part][owner_N[part] == sequence.rank] - sequence.rank * shard for part in wanted]
    mine_N = owner_N[wanted[sequence.rank]]
    received = [int((mine_N == rank).sum()) for rank in range(sequence.size)]
    sent_MC = hidden_TC[torch.cat(send).to(hidden_TC.device)]
    got_MC = exchange(sent_MC, [len(part) for part in send], received, sequence.group)
    # What comes in is ordered by owner, and within an owner by place
    order = torch.argsort(mine_N, stable=True)
    return got_MC[torch.argsort(order).to(got_MC.device)]


def exchange(rows: Tensor, send: Sequence[int], receive: Sequence[int], group: Any) -> Tensor:
    """All-to-all of a tensor's rows: the first send[0] go to process 0, and so on. Differentiable."""
    output: Tensor = _Exchange.apply(rows, list(send), list(receive), group)
    return output


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: list[int], receive: list[int], group: Any) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        return _all_to_all(rows, send, receive, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(gradient, ctx.receive, ctx.send, ctx.group), None, None, None


def _all_to_all(rows: Tensor, send: list[int], receive: list[int], group: Any) -> Tensor:
    output = rows.new_empty((sum(receive), *rows.shape[1:]))
    dist.all_to_all_single(output, rows.contiguous(), receive, send, group=group)
    return output


def _heads_of_all_tokens(heads: Tensor, sequence: SequenceGroup) -> Tensor:
    """[H, T/S, D] of this process's tokens -> [H/S, T, D] of this process's heads."""
    count, shard, size = heads.shape
    even = [count // sequence.size] * sequence.size
    got = exchange(heads, even, even, sequence.group)  # S blocks of [H/S, T/S, D], one per process's tokens
    got = got.view(sequence.size, even[0], shard, size)
    return got.transpose(0, 1).reshape(even[0], sequence.size * shard, size)


def _tokens_of_all_heads(heads: Tensor, sequence: SequenceGroup) -> Tensor:
    """[H/S, T, D] of this process's heads -> [T/S, H, D] of this process's tokens."""
    count, tokens, size = heads.shape
    shard = tokens // sequence.size
    blocks = heads.reshape(count, sequence.size, shard, size).transpose(0, 1).reshape(-1, shard, size)
    even = [count] * sequence.size
    return exchange(blocks, even, even, sequence.group).transpose(0, 1)  # process order is head order


def _key_repeats(query_heads: int, key_heads: int, size: int) -> int:
    """How often key heads are repeated so that `size` divides them and they still divide the query heads."""
    repeats = 1
    while (key_heads * repeats) % size:
        repeats += 1
        while query_heads % (key_heads * repeats):
            repeats += 1
    return repeats
