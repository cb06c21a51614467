import json
import math

import pytest
import torch

from stages.rl.aepo import (
    EntropyController,
    batch_entropy,
    keep_positives,
    negative_clipping_weights,
    token_entropy,
)

NAN = float("nan")


def test_the_switch_has_hysteresis():
    controller = EntropyController(low=0.1, high=0.3)
    trace = [0.2, 0.29, 0.31, 0.2, 0.11, 0.1, 0.09, 0.2, 0.3, 0.301, 0.05]
    masking = [controller.update(entropy) for entropy in trace]
    #          inside  inside  above  band  band  =low   below  band   =high  above  below
    assert masking == [False, False, True, True, True, True, False, False, False, True, False]


def test_the_switch_is_part_of_the_state():
    controller = EntropyController(0.1, 0.3)
    controller.update(0.5)
    resumed = EntropyController(0.1, 0.3)
    resumed.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    assert resumed.update(0.2) is True


def test_nan_entropy_and_reversed_thresholds_are_errors():
    with pytest.raises(ValueError, match="NaN"):
        EntropyController(0.1, 0.3).update(NAN)
    with pytest.raises(ValueError, match="low"):
        EntropyController(0.3, 0.1)


def test_batch_entropy_is_the_mean_of_sequence_means_and_token_entropy_that_of_tokens():
    entropy = torch.tensor([[1.0, NAN, NAN, NAN], [0.0, 0.2, 0.4, 0.6]])
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])
    assert batch_entropy(entropy, mask) == pytest.approx((1.0 + 0.3) / 2)
    assert token_entropy(entropy, mask) == pytest.approx((1.0 + 1.2) / 5)


def test_sequences_without_tokens_do_not_count():
    assert batch_entropy(torch.tensor([[0.4], [9.0]]), torch.tensor([[1], [0]])) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no token"):
        batch_entropy(torch.zeros(1, 2), torch.zeros(1, 2))


def test_a_counted_nan_shows():
    assert math.isnan(batch_entropy(torch.tensor([[NAN, 1.0]]), torch.ones(1, 2)))


def test_only_negative_sequences_are_masked():
    assert keep_positives(torch.tensor([-0.5, 0.0, 2.0])).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("level", "side", "expected"),
    [
        ("none", "high", [[1, 1], [1, 1], [1, 1]]),
        ("token", "high", [[1, 0], [1, 1], [1, 1]]),
        ("token", "low", [[0, 1], [0, 0], [1, 1]]),
        ("sequence", "high", [[0, 0], [1, 1], [1, 1]]),  # mean 0.6 > 0.5
        ("sequence", "low", [[1, 1], [0, 0], [1, 1]]),  # mean 0.1, of one token
    ],
)
def test_negative_clipping_concerns_negatives_beyond_the_threshold(level, side, expected):
    entropy = torch.tensor([[0.2, 1.0], [0.1, 0.0], [0.1, 1.0]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
    advantages = torch.tensor([-1.0, -1.0, 1.0])
    assert negative_clipping_weights(advantages, entropy, mask, level, side, 0.5).tolist() == expected
