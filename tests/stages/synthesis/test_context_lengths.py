"""Target lengths have the wanted mean and stay within the limits; places of evidence are uniform."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import ConfigError
from stages.synthesis.context_order import Placed, arrange
from stages.synthesis.lengths import LengthDistribution


@pytest.mark.parametrize(
    ("low", "mean", "high"), [(4096, 34231, 119932), (240, 320, 400), (64, 70, 4_000_000), (192, 300, 320)]
)
def test_the_mean_of_many_lengths_is_the_wanted_one(low, mean, high):
    lengths = LengthDistribution.with_mean(low, mean, high)
    chance = random.Random(1)
    drawn = [lengths.length_at(chance.random()) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.02)
    assert low <= min(drawn)
    assert max(drawn) <= high


def test_the_paper_s_lengths_are_mostly_medium_and_sometimes_near_the_limit():
    lengths = LengthDistribution.with_mean(4096, 34231, 119932)
    assert 20_000 < lengths.length_at(0.5) < 30_000
    assert lengths.length_at(0.98) > 95_000


@settings(deadline=None, max_examples=30)
@given(st.integers(64, 10_000), st.integers(0, 100_000), st.floats(0, 1))
def test_lengths_rise_with_the_share_and_stay_within(low, width, share):
    lengths = LengthDistribution.with_mean(low, low + width // 3, low + width)
    assert low <= lengths.length_at(share * 0.9) <= lengths.length_at(share) + 1e-6 <= low + width + 1e-6


def test_one_length_only():
    assert LengthDistribution.with_mean(300, 300, 300).length_at(0.7) == 300


def test_limits_that_do_not_fit_are_config_errors():
    with pytest.raises(ConfigError, match=r"min_context_tokens \(9\) is above"):
        LengthDistribution.with_mean(9, 5, 8)
    with pytest.raises(ConfigError, match=r"mean_context_tokens \(10\) must lie between"):
        LengthDistribution.with_mean(2, 10, 8)


def deciles(evidence_at, sizes, runs=4000):
    counts = [0] * 10
    for seed in range(runs):
        blocks = [Placed(f"d{n}", size, None) for n, size in enumerate(sizes)]
        blocks.append(Placed("e", 1000, evidence_at))
        order = arrange(blocks, random.Random(seed))
        tokens = {block.document_id: block.tokens for block in blocks}
        before = sum(tokens[name] for name in order[: order.index("e")])
        counts[min(9, int(10 * (before + evidence_at) / sum(tokens.values())))] += 1
    return [count / runs for count in counts]


def test_evidence_at_the_top_of_its_document_still_lands_everywhere():
    shares = deciles(20.0, [500 + 130 * n for n in range(12)])
    assert min(shares) > 0.05
    assert max(shares) < 0.15


def test_every_document_stands_in_the_order_once():
    blocks = [Placed("a", 10, 3.0), Placed("b", 20, None), Placed("c", 5, 1.0), Placed("d", 7, None)]
    for seed in range(20):
        assert sorted(arrange(blocks, random.Random(seed))) == ["a", "b", "c", "d"]
    assert arrange(blocks, random.Random(1)) == arrange(blocks, random.Random(1))
