"""Which process computes which packed row, and in which order: equal on all of them, without a word between them.

Under ZeRO-3 every process takes part in every other one's forward pass (each holds a part of all weights), so all must
make the same number of passes, and a pass takes as long as its longest row. Rows are therefore sorted by cost and dealt
in rounds, one per worker; the direction turns with every round, which evens out the sums. Where a round lacks rows, a
worker computes a dummy of one token with weight zero.

Rows whose every coefficient is zero need no backward pass; they are dealt apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stages.rl.packing import Branch, PackedRow, Tree, pack_trees


@dataclass(frozen=True)
class RowPlan:
    """rounds[r][w]: index of the row that worker w computes in round r; None: a dummy."""

    rounds: tuple[tuple[int | None, ...], ...]

    def of_worker(self, worker: int) -> list[int | None]:
        """One entry per round."""
        return [entries[worker] for entries in self.rounds]


def row_cost(row: PackedRow) -> float:
    """Relative time of a row: its tokens, and the pairs of tokens that attention meets.

    At 16K tokens attention costs about as much as everything else in a model of the paper's sizes.
    """
    attended = float((row.position_ids + 1).sum())
    return row.num_tokens + attended / 8192


def deal_rows(rows: Sequence[PackedRow], chosen: Sequence[int], workers: int, at_least: int = 0) -> RowPlan:
    """Deal the rows with the indices `chosen`; at least `at_least` rounds, of dummies if need be."""
    order = sorted(chosen, key=lambda index: (-row_cost(rows[index]), index))
    rounds = []
    for number, start in enumerate(range(0, len(order), workers)):
        entries: list[int | None] = list(order[start : start + workers])
        entries += [None] * (workers - len(entries))
        rounds.append(tuple(entries if number % 2 == 0 else reversed(entries)))
    rounds += [(None,) * workers] * (at_least - len(rounds))
    return RowPlan(tuple(rounds))


def needs_gradient(row: PackedRow, advantages_B: torch.Tensor, weight_BT: torch.Tensor) -> bool:
    """Whether some scored token of the row has a coefficient other than zero."""
    weight_N = weight_BT[row.rollout_index_N, row.token_index_N]
    return bool(((advantages_B[row.rollout_index_N] != 0) & (weight_N != 0)).any())


def dummy_row() -> PackedRow:
    """One token that predicts one token."""
    (row,) = pack_trees([Tree((0,), (Branch((0,), 0, 0),))], max_tokens=1)
    return row
