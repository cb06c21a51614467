import pytest
import torch

from stages.common.rollouts import Rollout, RolloutGroup, Segment
from stages.rl.batch import Batch, engine_logprobs, k3_kl, overlong_penalty, turn_weights


def rollout(*turn_tokens: int, reward: float = 0.0) -> Rollout:
    segments = tuple(
        Segment((1, 2), (5,) * tokens, tuple(-0.1 * (i + 1) for i in range(tokens)), "memory", "stop")
        for tokens in turn_tokens
    )
    return Rollout(segments, "", reward)


# The example of the docstring: turns of 3 + 1 and 2 + 2 tokens, and a second group of one rollout of one token.
BATCH = Batch(
    [
        RolloutGroup("a", "numerical", 0, (rollout(3, 1), rollout(2, 2))),
        RolloutGroup("b", "multi_hop", 1, (rollout(1),)),
    ]
)


def test_token_weighting_counts_every_token():
    weight, tokens = turn_weights(BATCH, "token")
    assert weight.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert tokens == {0: 8.0, 1: 1.0}


def test_trajectory_weighting_gives_each_trajectory_the_same_share():
    weight, tokens = turn_weights(BATCH, "trajectory")
    assert weight.tolist() == [[0.25] * 4, [0.25] * 4, [1, 0, 0, 0]]
    assert tokens == {0: 2.0, 1: 1.0}


def test_final_only_weighting_holds_the_last_turn_in_numerator_and_denominator():
    weight, tokens = turn_weights(BATCH, "final_only")
    assert weight.tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0]]
    assert tokens == {0: 3.0, 1: 1.0}


def test_length_penalty_is_linear_over_the_buffer():
    batch = Batch([RolloutGroup("a", "t", 0, tuple(rollout(9, n) for n in (2, 6, 7, 9, 10)))])
    assert overlong_penalty(batch, max_tokens=10, buffer_tokens=4).tolist() == [0, 0, -0.25, -0.75, -1]


def test_columns_are_flat_and_in_order():
    assert BATCH.group_ids_B.tolist() == [0, 0, 1]
    assert BATCH.tasks == ["numerical", "numerical", "multi_hop"]
    assert BATCH.tokens_B.tolist() == [4, 4, 1]
    assert BATCH.shape == (3, 4)


def test_engine_logprobs_run_over_all_turns():
    found = engine_logprobs(BATCH, torch.tensor([0, 0, 1]), torch.tensor([2, 3, 2]))
    assert found.tolist() == pytest.approx([-0.3, -0.1, -0.1])


def test_k3_is_zero_for_equal_and_positive_for_different_log_probabilities():
    engine = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    assert k3_kl(engine.float(), engine) == 0
    # d = 0.5 and -0.5: (e^0.5 - 1 - 0.5 + e^-0.5 - 1 + 0.5) / 2
    assert k3_kl(engine + torch.tensor([0.5, -0.5]), engine) == pytest.approx(
        (2.718281828**0.5 + 2.718281828**-0.5 - 2) / 2
    )
