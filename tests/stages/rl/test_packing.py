import pytest
import torch

from stages.common.rollouts import Rollout, RolloutGroup, Segment
from stages.rl.attention import is_one_sequence, tree_mask
from stages.rl.packing import pack_groups, to_grid, unshared_tokens
from tests.stages.rl.tiny_world import random_groups


def rollout(*turns: tuple[tuple[int, ...], tuple[int, ...]]) -> Rollout:
    segments = [
        Segment(prompt, response, (0.0,) * len(response), "answer" if place == len(turns) - 1 else "memory", "stop")
        for place, (prompt, response) in enumerate(turns)
    ]
    return Rollout(tuple(segments), "", 0.0)


def group(*rollouts: Rollout, name: str = "s", number: int = 0) -> RolloutGroup:
    return RolloutGroup(name, "numerical", number, rollouts)


EXAMPLE = group(rollout(((1, 2, 3), (7, 9))), rollout(((1, 2, 3), (8, 9, 5))))


def test_the_example_of_the_docstring():
    (row,) = pack_groups([EXAMPLE], 100)
    assert row.token_ids.tolist() == [1, 2, 3, 7, 8, 9]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 3, 4]
    assert row.segment_ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert row.parent_ids.tolist() == [-1, 0, 0]
    assert row.hidden_index_N.tolist() == [2, 3, 2, 4, 5]
    assert row.target_N.tolist() == [7, 9, 8, 9, 5]
    assert row.rollout_index_N.tolist() == [0, 0, 1, 1, 1]
    assert row.token_index_N.tolist() == [0, 1, 0, 1, 2]


def test_a_token_sees_its_branch_and_the_prompt_but_no_sibling():
    (row,) = pack_groups([EXAMPLE], 100)
    assert tree_mask(row).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 1],
    ]


def test_two_trees_in_a_row_do_not_see_each_other():
    (row,) = pack_groups([EXAMPLE, group(rollout(((4,), (5, 6))), number=1)], 100)
    mask = tree_mask(row)
    assert row.parent_ids.tolist() == [-1, 0, 0, -1, 3]
    assert row.rollout_index_N.tolist()[-2:] == [2, 2]
    assert not mask[6:, :6].any()
    assert not mask[:6, 6:].any()


def test_a_group_over_the_budget_is_split_at_branches_and_its_prompt_repeated():
    rows = pack_groups([EXAMPLE], 5)  # prompt 3 + 1, then prompt 3 + 2
    assert [row.token_ids.tolist() for row in rows] == [[1, 2, 3, 7], [1, 2, 3, 8, 9]]
    assert [row.rollout_index_N.tolist() for row in rows] == [[0, 0], [1, 1, 1]]
    assert all(is_one_sequence(row) for row in rows)


def test_one_answer_over_the_budget_names_the_knob():
    with pytest.raises(ValueError, match="max_row_tokens"):
        pack_groups([EXAMPLE], 4)


@pytest.mark.parametrize("budget", [9, 12, 40, 1000])
@pytest.mark.parametrize("trees_per_row", [None, 1])
def test_every_generated_token_is_scored_once_within_the_budget(budget, trees_per_row):
    groups = random_groups(3, 4, 5, (1, 5), turns=2)
    rows = pack_groups(groups, budget, trees_per_row)
    assert max(row.num_tokens for row in rows) <= budget
    scored = [
        (int(r), int(t), int(x))
        for row in rows
        for r, t, x in zip(row.rollout_index_N, row.token_index_N, row.target_N, strict=True)
    ]
    expected = []
    for index, member in enumerate(member for g in groups for member in g.rollouts):
        ids = [token for segment in member.segments for token in segment.response_ids]
        expected += [(index, place, token) for place, token in enumerate(ids)]
    assert sorted(scored) == sorted(expected)


def test_first_turns_share_their_prompt_and_later_turns_are_trees_of_one_branch():
    a = rollout(((1, 2), (3, 4)), ((5, 6), (7,)))
    b = rollout(((1, 2), (8,)), ((9, 9), (7, 7)))
    rows = pack_groups([group(a, b)], 100, trees_per_row=1)
    assert [row.token_ids.tolist() for row in rows] == [[1, 2, 3], [5, 6], [9, 9, 7]]
    assert rows[0].rollout_index_N.tolist() == [0, 0, 1]
    assert rows[1].token_index_N.tolist() == [2]  # after two tokens of the first turn
    assert rows[2].token_index_N.tolist() == [1, 2]


def test_unshared_tokens_counts_separate_sequences():
    assert unshared_tokens([EXAMPLE]) == (3 + 1) + (3 + 2)


def test_grid_puts_values_at_rollout_and_token():
    rows = pack_groups([EXAMPLE], 5)
    grid = to_grid(rows, [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])], 2, 3)
    assert grid.tolist() == [[1, 2, 0], [3, 4, 5]]


def test_prompts_of_one_turn_share_their_common_beginning():
    a = rollout(((1, 2, 3, 4), (7, 9)))
    b = rollout(((1, 2, 3, 5, 6), (8,)))
    (row,) = pack_groups([group(a, b)], 100)
    assert row.token_ids.tolist() == [1, 2, 3, 4, 7, 5, 6]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert row.segment_ids.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert row.parent_ids.tolist() == [-1, 0, 0]
    assert row.hidden_index_N.tolist() == [3, 4, 6]
    assert row.target_N.tolist() == [7, 9, 8]
    assert row.token_index_N.tolist() == [0, 1, 0]


def test_a_prompt_that_begins_another_one_is_its_trunk():
    a, b = rollout(((1, 2, 3), (7, 9))), rollout(((1, 2, 3, 4), (8,)))
    (row,) = pack_groups([group(a, b)], 100)
    assert row.token_ids.tolist() == [1, 2, 3, 7, 4]
    assert row.hidden_index_N.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("two", "shared"),
    [((1, 2, 5, 6), True), ((1, 9, 9, 9), False), ((1, 2, 5, 6, 7), False)],  # 2 of 4; 1 of 4; 2 of 5 is less than half
)
def test_less_than_half_in_common_is_not_shared(two, shared):
    rows = pack_groups([group(rollout(((1, 2, 3, 4), (7,))), rollout((two, (8,))))], 100, trees_per_row=1)
    assert len(rows) == (1 if shared else 2)


def test_turns_do_not_share_with_other_turns():
    a = rollout(((1, 2, 3, 4), (7,)), ((1, 2, 3, 5), (8,)))
    assert len(pack_groups([group(a)], 100, trees_per_row=1)) == 2


def test_a_shared_turn_over_the_budget_repeats_its_common_beginning():
    a, b = rollout(((1, 2, 3, 4), (7, 9))), rollout(((1, 2, 3, 5, 6), (8,)))
    rows = pack_groups([group(a, b)], 5)
    assert [row.token_ids.tolist() for row in rows] == [[1, 2, 3, 4, 7], [1, 2, 3, 5, 6]]
    with pytest.raises(ValueError, match="a prompt of 4 tokens with an answer of 2 "):
        pack_groups([group(a, b)], 4)


def test_sharing_a_chunk_saves_its_tokens():
    chunk = tuple(range(100, 140))
    members = [rollout(((9, 9), (1,)), ((8, *chunk, 50 + i), (2, 3))) for i in range(4)]
    rows = pack_groups([group(*members)], 1_000)
    assert sum(row.num_tokens for row in rows) == 2 + 41 + 4 * 2
    assert unshared_tokens([group(*members)]) == 4 * (2 + 43)
