"""SCE on one tensor: the reference vectors of recipe.md section 5 and the traps beside them."""

import math
import warnings

import numpy as np
import pytest
import torch

from stages.common.errors import InputError
from stages.merge.passes import CHUNK
from stages.merge.sce import sce_merge, sce_merge_with_report

BASE = torch.tensor([0, 0, 0, 0, 1], dtype=torch.float64)
FIRST = torch.tensor([1, -1, 2, 0.5, 1], dtype=torch.float64)
SECOND = torch.tensor([1, 2, -1, 0.25, 1], dtype=torch.float64)


@pytest.mark.parametrize("weighting", ["scale_free", "reference"])
def test_two_experts_give_the_reference_vectors(weighting):
    merged, report = sce_merge_with_report(BASE, [FIRST, SECOND], 1.0, weighting)
    # Mean squares 6.25/5 and 6.0625/5; 0.5 * w1 + 0.25 * w2 on the element where both have the same sign.
    assert report.weights == pytest.approx((6.25 / 12.3125, 6.0625 / 12.3125), abs=1e-12)
    assert report.weights == pytest.approx((0.5076142132, 0.4923857868), abs=1e-10)
    assert merged.tolist() == pytest.approx([1, 2, 2, 0.3769035533, 1], abs=1e-10)


def test_report_holds_erased_share_and_cosine():
    _, report = sce_merge_with_report(BASE, [FIRST, SECOND])
    assert report.erased_fraction == 2 / 8  # -1 of each expert lost against 2; four non-zero elements each
    assert report.cosine == pytest.approx((1 - 2 - 2 + 0.125) / math.sqrt(6.25 * 6.0625))
    assert report.delta_rms == pytest.approx((math.sqrt(6.25 / 5), math.sqrt(6.0625 / 5)))


@pytest.mark.parametrize("weighting", ["scale_free", "reference"])
def test_select_keeps_the_largest_variance_and_resets_agreement_to_the_base(weighting):
    first = torch.tensor([1, -1, 2, 0.5, 1], dtype=torch.float64)
    second = torch.tensor([1, 3, -1, 0.25, 1], dtype=torch.float64)
    # Variances 0, 4, 2.25, 1/64, 0: three are not zero, half of three is one: element 1, squares 1 and 9.
    merged, report = sce_merge_with_report(BASE, [first, second], 0.5, weighting)
    assert report.weights == pytest.approx((0.1, 0.9))
    assert merged.tolist() == pytest.approx([0, 3, 0, 0, 1])


def test_tied_variances_select_the_lowest_index():
    # Elements 1 and 2 both have variance 2.25; one is kept.
    merged, report = sce_merge_with_report(BASE, [FIRST, SECOND], 0.5)
    assert report.weights == pytest.approx((0.2, 0.8))
    assert merged.tolist() == pytest.approx([0, 2, 0, 0, 1])


def test_three_tenths_of_ten_elements_are_three():
    base = torch.zeros(10, dtype=torch.float64)
    first = torch.arange(1, 11, dtype=torch.float64)
    merged = sce_merge(base, [first, -first], 0.3)
    assert torch.count_nonzero(merged).item() == 3


def test_a_tie_of_signs_counts_as_plus():
    base = torch.zeros(1)
    assert sce_merge(base, [torch.tensor([1.0]), torch.tensor([-1.0])]).item() == 1.0


def test_one_expert_is_returned():
    expert = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    base = torch.randn(1000, generator=torch.Generator().manual_seed(4))
    merged = sce_merge(base, [expert])
    torch.testing.assert_close(merged, expert, rtol=0, atol=0)


def test_one_expert_with_selection_is_the_base_and_warns():
    with pytest.warns(UserWarning, match="returns the base"):
        merged = sce_merge(BASE, [FIRST], 0.5)
    assert torch.equal(merged, BASE)


def test_equal_experts_do_not_warn_and_return_the_base_unchanged():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged, report = sce_merge_with_report(BASE, [BASE, BASE])
    assert torch.equal(merged, BASE)
    assert report.weights == (0.0, 0.0)
    assert report.cosine is None


def test_tiny_differences_keep_their_weights_only_scale_free():
    # An RL stage moves weights by 1e-5: mean squares 1e-10 and 4e-10 are below the reference's threshold.
    base = torch.full((4,), 0.02, dtype=torch.float64)
    experts = [base + 1e-5, base + 2e-5]
    scale_free, report = sce_merge_with_report(base, experts)
    assert report.weights == pytest.approx((0.2, 0.8))
    assert (scale_free - base).tolist() == pytest.approx([1.8e-5] * 4)
    reference, report = sce_merge_with_report(base, experts, weighting="reference")
    assert report.weights == (0.5, 0.5)
    assert (reference - base).tolist() == pytest.approx([1.5e-5] * 4)


def test_an_rl_step_survives_in_float32():
    base = torch.full((8,), 0.02)
    expert = base + 2e-6
    assert not torch.equal(sce_merge(base, [expert, base]), base)
    torch.testing.assert_close(sce_merge(base, [expert, base]), expert, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 4)])
@pytest.mark.parametrize("weighting", ["scale_free", "reference"])
def test_any_shape_and_type_keeps_shape_and_type_of_the_base(shape, weighting):
    base = torch.zeros(shape, dtype=torch.bfloat16)
    merged = sce_merge(base, [torch.ones(shape), torch.ones(shape)], weighting=weighting)
    assert merged.shape == base.shape
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, torch.ones(shape, dtype=torch.bfloat16))


@pytest.mark.parametrize("weighting", ["scale_free", "reference"])
@pytest.mark.parametrize("topk", [1.0, 0.37])
def test_agrees_with_a_plain_numpy_reading_of_the_rules(weighting, topk):
    random = np.random.default_rng(5)
    base = random.normal(size=(37, 53))
    experts = [base + random.normal(size=base.shape) * scale for scale in (0.5, 1.0, 2.0)]
    deltas = np.stack([expert - base for expert in experts]).reshape(3, -1)
    if topk < 1:
        variance = deltas.var(axis=0)
        kept = np.argsort(-variance, kind="stable")[: int(np.count_nonzero(variance) * topk)]
        mask = np.zeros(variance.shape)
        mask[kept] = 1
        deltas = deltas * mask
    weights = (deltas**2).mean(axis=1)
    weights = weights / weights.sum()
    majority = np.where(deltas.sum(axis=0) >= 0, 1, -1)
    keep = np.sign(deltas) == majority
    numerator = (weights[:, None] * keep * deltas).sum(axis=0)
    denominator = (weights[:, None] * keep).sum(axis=0)
    change = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    merged = sce_merge(torch.tensor(base), [torch.tensor(expert) for expert in experts], topk, weighting)
    np.testing.assert_allclose(merged.numpy(), base + change.reshape(base.shape), rtol=0, atol=1e-12)


def test_blocks_do_not_change_the_result(monkeypatch):
    generator = torch.Generator().manual_seed(9)
    base, first, second = (torch.randn(600_001, generator=generator) for _ in range(3))
    whole, report = sce_merge_with_report(base, [first, second], 0.5)
    monkeypatch.setattr("stages.merge.passes.BLOCK", CHUNK)  # of which a block is always a multiple
    blocked, blocked_report = sce_merge_with_report(base, [first, second], 0.5)
    assert torch.equal(whole, blocked)
    assert report == blocked_report


def test_the_number_of_threads_does_not_change_the_result():
    generator = torch.Generator().manual_seed(9)
    base, first, second = (torch.randn(300_000, generator=generator) for _ in range(3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sce_merge_with_report(base, [first, second])
        torch.set_num_threads(2)
        two = sce_merge_with_report(base, [first, second])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"expert 2 has shape \(4,\), the base \(5,\)"):
        sce_merge(BASE, [FIRST, SECOND[:4]])


@pytest.mark.parametrize("topk", [0.0, -0.1, 1.1, math.nan])
def test_a_fraction_out_of_range_is_refused(topk):
    with pytest.raises(InputError, match="select_topk"):
        sce_merge(BASE, [FIRST, SECOND], topk)


def test_no_expert_is_refused():
    with pytest.raises(InputError, match="at least one expert"):
        sce_merge(BASE, [])
