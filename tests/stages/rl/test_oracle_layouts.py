"""One gradient, however the work is cut: rows, micro-batches, shared prompts or not, groups in several calls."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.rollouts import RolloutGroup
from stages.rl.aepo import EntropyController
from stages.rl.batch import Batch, turn_weights
from stages.rl.packing import PackedRow, Tree, group_trees, pack_groups, pack_trees
from stages.rl.policy import LossWeights
from stages.rl.torch_policy import TorchPolicy
from tests.stages.rl.tiny_world import make_policy, random_groups, write_model_folder


@pytest.fixture(scope="module", params=["llama", "qwen3_moe"])
def policy(request, tmp_path_factory) -> TorchPolicy:
    return make_policy(write_model_folder(tmp_path_factory.mktemp(request.param), request.param))


def one_by_one(groups: list[RolloutGroup]) -> list[PackedRow]:
    """Every answer with a prompt of its own."""
    rows, first = [], 0
    for group in groups:
        for tree in group_trees(group, first):
            rows += [row for branch in tree.branches for row in pack_trees([Tree(tree.prompt_ids, (branch,))], 10_000)]
        first += len(group.rollouts)
    return rows


def gradient_of(policy: TorchPolicy, rows: list[PackedRow], groups: list[RolloutGroup], denominator: str):
    batch = Batch(groups)
    weight_BT, tokens = turn_weights(batch, "token")
    weight_BT[1] = 0.0  # a masked sequence stays in the denominator of every layout
    advantages_B = torch.randn(len(batch.rollouts), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = LossWeights(weight_BT, batch.group_ids_B, tokens, len(groups), denominator)
    loss, _ = policy.accumulate(rows, advantages_B, weights)
    return loss, torch.cat([gradient.flatten().clone() for gradient in policy.gradients.values()])


@given(
    seed=st.integers(0, 10_000),
    budget=st.integers(36, 220),
    trees_per_row=st.sampled_from([None, 1, 2]),
    turns=st.integers(1, 2),
    denominator=st.sampled_from(["group", "batch"]),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_rows_of_any_budget_give_the_gradient_of_separate_sequences(
    policy, seed, budget, trees_per_row, turns, denominator
):
    groups = random_groups(3, 3, 20, (1, 8), seed=seed, turns=turns)
    loss, expected = gradient_of(policy, one_by_one(groups), groups, denominator)
    other_loss, gradient = gradient_of(policy, pack_groups(groups, budget, trees_per_row), groups, denominator)
    assert other_loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_a_group_split_over_calls_sums_to_the_whole(policy):
    groups = random_groups(2, 4, 20, (2, 8))
    rows = pack_groups(groups, 36)
    assert len(rows) > 2  # both groups are split
    loss, expected = gradient_of(policy, pack_groups(groups, 1000), groups, "group")
    parts = [gradient_of(policy, [row], groups, "group") for row in rows]
    assert sum(part_loss for part_loss, _ in parts) == pytest.approx(loss, rel=1e-5)
    assert (sum(part for _, part in parts) - expected).norm() / expected.norm() < 1e-5


def test_the_order_of_rows_does_not_matter(policy):
    groups = random_groups(3, 3, 20, (2, 8))
    rows = pack_groups(groups, 60)
    _, expected = gradient_of(policy, rows, groups, "group")
    _, gradient = gradient_of(policy, rows[::-1], groups, "group")
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_a_router_s_auxiliary_loss_never_enters(tmp_path):
    folder = write_model_folder(tmp_path, "qwen3_moe")
    plain, asked = make_policy(folder), make_policy(folder)
    asked.model.config.output_router_logits = True
    asked.model.router_aux_loss_coef = 10.0
    groups = random_groups(2, 3, 20, (2, 8))
    _, expected = gradient_of(plain, pack_groups(groups, 1000), groups, "group")
    _, gradient = gradient_of(asked, pack_groups(groups, 1000), groups, "group")
    assert torch.equal(gradient, expected)


def test_an_entropy_trace_switches_as_the_paper_says():
    """Low 0.10, high 0.30 (paper, Fig. 11): on strictly above high, off strictly below low, unchanged between."""
    trace = [0.20, 0.30, 0.31, 0.25, 0.10, 0.11, 0.09, 0.15, 0.30, 0.35, 0.05, 0.30]
    masked = [False, False, True, True, True, True, False, False, False, True, False, False]
    controller = EntropyController(0.10, 0.30)
    assert [controller.update(entropy) for entropy in trace] == masked
