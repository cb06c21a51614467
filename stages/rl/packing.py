"""Prefix-tree rows: a group's prompt once, its G answers as branches, so that a prompt is computed once per group.

Example: prompt (1, 2, 3), answers (7, 9) and (8, 9, 5), in one row:
    token_ids       1 2 3 | 7   | 8 9       an answer's last token is only a target: nothing is predicted from it
    position_ids    0 1 2 | 3   | 3 4       every branch continues where the prompt ends
    segment_ids     0 0 0 | 1   | 2 2
    parent_ids      -1, 0, 0                parent of each segment; -1: a root
    hidden_index_N  2 3 | 2 4 5             the last prompt token's hidden state is read once per answer
    target_N        7 9 | 8 9 5
    rollout_index_N 0 0 | 1 1 1
    token_index_N   0 1 | 0 1 2

A token attends to its own segment up to itself and to all its ancestors, so results equal those of separate sequences.
A memory trajectory is several segments of one rollout, and `token_index_N` runs over all turns. First turns of a group share
their prompt. Later prompts differ, by the memory; those of one turn share their longest common beginning (with
prompt_order section_first it holds the chunk) if it is at least half of each, and a branch then begins with the rest of its
prompt, which nothing is scored on:

    prompts (1, 2, 3, 4) and (1, 2, 3, 5, 6), answers (7, 9) and (8,):    1 2 3 | 4 7 | 5 6    segments 0 | 1 | 2
    hidden_index_N  3 4 | 6        target_N  7 9 | 8

Rows are filled up to a token budget: groups in order, trees split at branch boundaries where the budget asks for it (the
prompt is repeated then). Departure from other tree packers: no trie below the prompt; answers rarely share more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.common.errors import ConfigError
from stages.common.rollouts import RolloutGroup


@dataclass(frozen=True)
class PackedRow:
    """One row of tokens for one forward pass. T tokens, S segments, N scored tokens (all int64, CPU).

    token_ids, position_ids, segment_ids: [T]. parent_ids: [S], index of the parent segment or -1.
    hidden_index_N: which token's hidden state predicts the scored token. target_N: its id.
    rollout_index_N: its rollout, counted over all groups of the batch. token_index_N: its place among the rollout's
    generated tokens.
    """

    token_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    parent_ids: Tensor
    hidden_index_N: Tensor
    target_N: Tensor
    rollout_index_N: Tensor
    token_index_N: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens that the forward pass computes."""
        return len(self.token_ids)


@dataclass(frozen=True)
class Branch:
    """One answer to a prompt. first_token: place of its first token among the rollout's generated tokens.

    prompt_rest: what its prompt has beyond the tree's; computed, not scored.
    """

    response_ids: tuple[int, ...]
    rollout_index: int
    first_token: int
    prompt_rest: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of its segment: the last one of the answer is only a target."""
        return len(self.prompt_rest) + len(self.response_ids) - 1


@dataclass(frozen=True)
class Tree:
    """A prompt, or the common beginning of several, and what follows it."""

    prompt_ids: tuple[int, ...]
    branches: tuple[Branch, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + sum(branch.num_tokens for branch in self.branches)


def pack_groups(groups: Sequence[RolloutGroup], max_tokens: int, trees_per_row: int | None = None) -> list[PackedRow]:
    """Rows that together hold every generated token of every rollout once.

    max_tokens: budget of a row. trees_per_row: at most so many prompts in a row (None: as many as fit).
    Raises ValueError if a prompt with one of its answers exceeds max_tokens.
    """
    trees: list[Tree] = []
    first_rollout = 0
    for group in groups:
        for tree in group_trees(group, first_rollout):
            trees += _split(tree, max_tokens, f"sample {group.sample_id}")
        first_rollout += len(group.rollouts)
    return pack_trees(trees, max_tokens, trees_per_row)


def group_trees(group: RolloutGroup, first_rollout: int) -> list[Tree]:
    """One tree per distinct prompt of a group, or per common beginning of one turn's prompts, in order of first appearance."""
    branches: dict[tuple[int, ...], list[Branch]] = {}
    turns: dict[tuple[int, ...], int] = {}
    for offset, rollout in enumerate(group.rollouts):
        tokens = 0
        for turn, segment in enumerate(rollout.segments):
            if segment.response_ids:
                branch = Branch(segment.response_ids, first_rollout + offset, tokens)
                branches.setdefault(segment.prompt_ids, []).append(branch)
                turns.setdefault(segment.prompt_ids, turn)
            tokens += len(segment.response_ids)
    return [_tree(trunk, prompts, branches) for trunk, prompts in _sharing(list(branches), turns)]


def _sharing(
    prompts: Sequence[tuple[int, ...]], turns: Mapping[tuple[int, ...], int]
) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """(common beginning, prompts) of each tree: a prompt joins the last tree of its turn if at least half of it, and of each
    prompt that is there, stays common.
    """
    found: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = []
    last: dict[int, int] = {}  # turn -> place of its last tree
    for prompt in prompts:
        place = last.get(turns[prompt])
        if place is not None:
            trunk, members = found[place]
            common = _common_beginning(trunk, prompt)
            if common and 2 * common >= max(len(prompt), *map(len, members)):
                found[place] = (trunk[:common], [*members, prompt])
                continue
        last[turns[prompt]] = len(found)
        found.append((prompt, [prompt]))
    return found


def _common_beginning(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    if one == two[: len(one)]:
        return len(one)
    return next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _tree(
    trunk: tuple[int, ...],
    prompts: Sequence[tuple[int, ...]],
    branches: Mapping[tuple[int, ...], Sequence[Branch]],
) -> Tree:
    parts = [replace(branch, prompt_rest=prompt[len(trunk) :]) for prompt in prompts for branch in branches[prompt]]
    return Tree(trunk, tuple(parts))


def pack_trees(trees: Sequence[Tree], max_tokens: int, trees_per_row: int | None = None) -> list[PackedRow]:
    """Trees (each within the budget) into rows, first fit in order."""
    rows: list[list[Tree]] = []
    used = 0
    for tree in trees:
        full = not rows or used + tree.num_tokens > max_tokens
        if full or (trees_per_row is not None and len(rows[-1]) >= trees_per_row):
            rows.append([])
            used = 0
        rows[-1].append(tree)
        used += tree.num_tokens
    return [_row(row) for row in rows]


def unshared_tokens(groups: Sequence[RolloutGroup]) -> int:
    """Tokens that separate sequences, one per segment, would compute."""
    return sum(
        len(segment.prompt_ids) + len(segment.response_ids) - 1
        for group in groups
        for rollout in group.rollouts
        for segment in rollout.segments
        if segment.response_ids
    )


def to_grid(rows: Sequence[PackedRow], values: Sequence[Tensor], num_rollouts: int, num_tokens: int) -> Tensor:
    """Values of scored tokens, one [N] tensor per row, as one [B, T] grid; 0 where nothing was generated."""
    dtype = values[0].dtype if values else torch.float32
    grid_BT = torch.zeros(num_rollouts, num_tokens, dtype=dtype)
    for row, value_N in zip(rows, values, strict=True):
        grid_BT[row.rollout_index_N, row.token_index_N] = value_N.detach().to("cpu")
    return grid_BT


def _split(tree: Tree, max_tokens: int, name: str) -> list[Tree]:
    """The tree cut at branch boundaries into trees within the budget, the prompt repeated."""
    parts: list[list[Branch]] = []
    used = 0
    for branch in tree.branches:
        cost = branch.num_tokens
        if len(tree.prompt_ids) + cost > max_tokens:
            raise ConfigError(
                f"{name}: a prompt of {len(tree.prompt_ids) + len(branch.prompt_rest)} tokens with an answer of {len(branch.response_ids)} does "
                f"not fit a row of {max_tokens} tokens. Raise rl.shared.max_row_tokens (or sft.max_tokens for SFT), or "
                "lower the stage's max_input_tokens or max_output_tokens."
            )
        if not parts or used + cost > max_tokens:
            parts.append([])
            used = len(tree.prompt_ids)
        parts[-1].append(branch)
        used += cost
    return [Tree(tree.prompt_ids, tuple(part)) for part in parts]


def _row(trees: Sequence[Tree]) -> PackedRow:
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[int] = []
    parents: list[int] = []
    hidden: list[int] = []
    targets: list[int] = []
    rollouts: list[int] = []
    places: list[int] = []
    for tree in trees:
        root = len(parents)
        parents.append(-1)
        tokens += tree.prompt_ids
        positions += range(len(tree.prompt_ids))
        segments += [root] * len(tree.prompt_ids)
        last_prompt_token = len(tokens) - 1
        for branch in tree.branches:
            inputs = branch.prompt_rest + branch.response_ids[:-1]
            rest = len(branch.prompt_rest)
            before = len(tokens) + rest - 1 if rest else last_prompt_token
            hidden += [before, *range(len(tokens) + rest, len(tokens) + len(inputs))]
            targets += branch.response_ids
            rollouts += [branch.rollout_index] * len(branch.response_ids)
            places += range(branch.first_token, branch.first_token + len(branch.response_ids))
            positions += range(len(tree.prompt_ids), len(tree.prompt_ids) + len(inputs))
            segments += [len(parents)] * len(inputs)
            parents.append(root)
            tokens += inputs
    columns = (tokens, positions, segments, parents, hidden, targets, rollouts, places)
    return PackedRow(*(torch.tensor(column, dtype=torch.int64) for column in columns))
