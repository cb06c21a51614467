from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.rl.packing import Branch as Answer
from stages.rl.packing import PackedRow, Tree, pack_groups, pack_trees
from stages.rl.row_plan import deal_rows, dummy_row, needs_gradient, row_cost
from tests.stages.rl.tiny_world import random_groups


def row(tokens: int) -> PackedRow:
    (made,) = pack_trees([Tree((1,) * tokens, (Answer((2,), 0, 0),))], max_tokens=tokens)
    return made


def test_rows_are_dealt_by_cost_and_the_direction_turns():
    rows = [row(n) for n in (10, 70, 30, 60, 20, 50)]
    # by cost: 1 (70), 3 (60) | 5 (50), 2 (30) | 4 (20), 0 (10)
    assert deal_rows(rows, range(6), 2).rounds == ((1, 3), (2, 5), (4, 0))
    assert deal_rows(rows, range(6), 2).of_worker(0) == [1, 2, 4]


def test_a_round_without_enough_rows_holds_dummies():
    rows = [row(n) for n in (10, 20, 30)]
    assert deal_rows(rows, range(3), 2).rounds == ((2, 1), (None, 0))
    assert deal_rows(rows, [1], 3).rounds == ((1, None, None),)
    assert deal_rows(rows, [], 2).rounds == ()
    assert deal_rows(rows, [], 2, at_least=1).rounds == ((None, None),)


@given(st.lists(st.integers(1, 200), max_size=30), st.integers(1, 8))
def test_every_row_is_dealt_once_and_all_workers_have_equally_many_rounds(lengths: list[int], workers: int):
    rows = [row(n) for n in lengths]
    plan = deal_rows(rows, range(len(rows)), workers)
    dealt = [index for entries in plan.rounds for index in entries if index is not None]
    assert sorted(dealt) == list(range(len(rows)))
    assert all(len(entries) == workers for entries in plan.rounds)
    assert len(plan.rounds) == -(-len(rows) // workers)


def test_cost_grows_faster_than_length_and_knows_that_branches_are_short():
    assert row_cost(row(32768)) > 2 * row_cost(row(16384))
    shared = Tree((1,) * 1000, tuple(Answer((2,) * 9, member, 0) for member in range(4)))
    (branches,) = pack_trees([shared], max_tokens=2000)
    assert row_cost(branches) < row_cost(row(branches.num_tokens + 100))


def test_a_row_needs_a_gradient_if_a_scored_token_has_a_coefficient():
    (packed,) = pack_groups(random_groups(1, 2, 5, (3, 3)), 100)
    weights = torch.ones(2, 3)
    assert needs_gradient(packed, torch.tensor([0.0, 1.0]), weights)
    assert not needs_gradient(packed, torch.tensor([0.0, 0.0]), weights)
    weights[1] = 0
    assert not needs_gradient(packed, torch.tensor([0.0, 1.0]), weights)


def test_the_dummy_is_one_token():
    assert dummy_row().num_tokens == len(dummy_row().target_N) == 1
