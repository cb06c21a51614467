import pytest
import torch

from stages.rl.advantages import compute_advantages

# Two tasks. Task a: groups 0 (1, 0) and 1 (1, 1); its four rewards have mean 3/4, unbiased variance 1/4, std 1/2.
# Task b: group 2 (0.2, 0.6), unbiased std sqrt(0.08).
REWARDS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.2, 0.6], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
TASKS = ["a", "a", "a", "a", "b", "b"]


def advantages(**changes) -> list[float]:
    return compute_advantages(REWARDS, GROUPS, TASKS, **changes).tolist()


def test_task_scope_divides_by_the_std_of_all_rewards_of_the_task():
    b = 0.2 / (0.08**0.5 + 1e-6)
    assert advantages() == pytest.approx([0.5 / 0.500001, -0.5 / 0.500001, 0, 0, -b, b], rel=1e-12)


def test_group_scope_divides_by_the_groups_own_std():
    a = 0.5 / (0.5**0.5 + 1e-6)
    b = 0.2 / (0.08**0.5 + 1e-6)
    assert advantages(std_scope="group") == pytest.approx([a, -a, 0, 0, -b, b], rel=1e-12)


def test_batch_scope_divides_by_the_std_of_the_whole_batch():
    # mean 3.8/6, sum of squares 3.4, unbiased variance (3.4 - 3.8^2/6)/5
    std = ((3.4 - 3.8**2 / 6) / 5) ** 0.5 + 1e-6
    expected = [0.5 / std, -0.5 / std, 0, 0, -0.2 / std, 0.2 / std]
    assert advantages(std_scope="batch") == pytest.approx(expected, rel=1e-12)


def test_scope_none_only_centres():
    assert advantages(std_scope="none") == pytest.approx([0.5, -0.5, 0, 0, -0.2, 0.2], rel=1e-12)


def test_members_of_a_group_need_not_be_contiguous():
    order = [4, 0, 2, 5, 1, 3]
    shuffled = compute_advantages(REWARDS[order], GROUPS[order], [TASKS[i] for i in order])
    assert shuffled.tolist() == pytest.approx([advantages()[i] for i in order], rel=1e-12)


def test_equal_rewards_give_exactly_zero_also_in_float32():
    rewards = torch.full((8,), 0.7, dtype=torch.float32)
    for scope in ("task", "group", "batch", "none"):
        assert compute_advantages(rewards, torch.zeros(8), ["a"] * 8, scope).tolist() == [0.0] * 8


def test_an_equal_group_stays_exactly_zero_beside_others():
    rewards = torch.tensor([0.7, 0.7, 0.7, 0.1, 0.9, 0.3], dtype=torch.float32)
    result = compute_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 1]), ["a"] * 6)
    assert result[:3].tolist() == [0.0, 0.0, 0.0]
    assert result[3:].abs().min() > 0.1


def test_a_lone_rollout_gets_zero():
    assert compute_advantages(torch.tensor([0.3]), torch.tensor([0]), ["a"]).tolist() == [0.0]


def test_a_scope_of_single_rollout_groups_gets_zero_advantages():
    assert compute_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), ["a", "a"]).tolist() == [0.0, 0.0]


def test_unequal_lengths_nan_and_unknown_scopes_are_refused():
    with pytest.raises(ValueError, match="one entry per rollout"):
        compute_advantages(torch.zeros(2), torch.zeros(3), ["a", "a"])
    with pytest.raises(ValueError, match="NaN"):
        compute_advantages(torch.tensor([0.0, float("nan")]), torch.zeros(2), ["a", "a"])
    with pytest.raises(ValueError, match="std_scope"):
        compute_advantages(REWARDS, GROUPS, TASKS, "sample")
