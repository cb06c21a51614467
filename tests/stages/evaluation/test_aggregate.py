"""Means and intervals by hand."""

import math

import pytest

from stages.evaluation.aggregate import bootstrap, interval, wilson


@pytest.mark.parametrize(
    ("mean", "n", "low", "high"),
    [
        # scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        (0.5, 10, 0.236593, 0.763407),
        (0.0, 10, 0.0, 0.277533),
        (1.0, 10, 0.722467, 1.0),
        (0.12, 100, 0.069994, 0.198121),
        (0.75, 100, 0.656955, 0.824548),
        (1.0, 1, 0.206549, 1.0),
    ],
)
def test_wilson(mean, n, low, high):
    result = wilson(mean, n)
    assert result[:2] == pytest.approx((low, high), abs=1e-6)
    assert result.kind == "wilson"


def test_zero_or_one_scores_of_ten_questions_or_more_are_bootstrapped():
    result = interval([1.0] * 50 + [0.0] * 50, seed=1)
    assert result.kind == "bootstrap"
    # Mean 0.5, standard error 0.05.
    assert result[:2] == pytest.approx((0.402, 0.598), abs=0.02)


def test_ratios_get_a_bootstrap_that_repeats_for_its_seed():
    scores = [0.1 * i for i in range(11)]
    first = interval(scores, seed=1)
    assert first == interval(scores, seed=1)
    assert first != interval(scores, seed=2)
    assert first.kind == "bootstrap"
    # Mean 0.5, standard error sqrt(0.1 / 11) = 0.0953: about 0.5 +- 1.96 * 0.0953.
    assert first.low == pytest.approx(0.5 - 1.96 * math.sqrt(0.1 / 11), abs=0.02)
    assert first.high == pytest.approx(0.5 + 1.96 * math.sqrt(0.1 / 11), abs=0.02)
    assert first == bootstrap(scores, 1)


@pytest.mark.parametrize("scores", [[0.4], [0.2, 0.6, 0.4], [0.4] * 50])
def test_few_or_equal_ratios_get_wilsons_interval_of_their_mean(scores):
    low, high, kind = interval(scores, seed=1)
    assert kind == "wilson"
    assert (low, high) == pytest.approx(wilson(0.4, len(scores))[:2])
    assert low < 0.4 < high
