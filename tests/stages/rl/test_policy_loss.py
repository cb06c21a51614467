import pytest
import torch

from stages.rl.loss import policy_loss

# Group 7: rollouts 0 (2 tokens) and 1 (1 token); group 9: rollout 2 (3 tokens).
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
GROUPS = torch.tensor([7, 7, 9])
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5])


def logprobs() -> torch.Tensor:
    values = torch.tensor([[-0.1, -0.2, 0.0], [-0.3, 0.0, 0.0], [-0.4, -0.5, -0.6]], dtype=torch.float64)
    return values.requires_grad_()


def loss_and_gradient(**changes) -> tuple[float, list[list[float]]]:
    x = logprobs()
    output = policy_loss(x, ADVANTAGES, MASK, GROUPS, **changes)
    output.loss.backward()
    assert x.grad is not None
    return float(output.loss.detach()), x.grad.tolist()


def test_group_denominator_is_equation_4():
    # J = 1/2 [ (1 + 1 - 2) / 3 + (0.5 * 3) / 3 ] = 1/4
    loss, gradient = loss_and_gradient()
    assert loss == pytest.approx(-0.25)
    sixth = 1 / 6
    expected = [[-sixth, -sixth, 0], [2 * sixth, 0, 0], [-sixth / 2] * 3]
    assert gradient == [pytest.approx(row) for row in expected]


def test_batch_denominator_divides_one_sum_by_all_tokens():
    # (1 + 1 - 2 + 1.5) / 6
    loss, gradient = loss_and_gradient(denominator="batch")
    assert loss == pytest.approx(-0.25)
    assert gradient[0] == pytest.approx([-1 / 6, -1 / 6, 0])
    assert gradient[2] == pytest.approx([-0.5 / 6] * 3)


def test_a_weight_of_zero_leaves_the_denominator():
    loss, gradient = loss_and_gradient(weight_BT=torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 1, 1]]))
    assert loss == pytest.approx(-0.5 * (2 / 3 + 0.5))
    assert gradient[1] == [0, 0, 0]
    assert gradient[0][0] == pytest.approx(-1 / 6)  # still over 3 tokens


@pytest.mark.parametrize("denominator", ["group", "batch"])
def test_partial_losses_and_gradients_sum_to_the_full_ones(denominator):
    full_loss, full_gradient = loss_and_gradient(denominator=denominator)
    x = logprobs()
    parts = [[1], [2, 0]]  # group 7 is split over both micro-batches
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        total = (
            total
            + policy_loss(
                x[part],
                ADVANTAGES[part],
                MASK[part],
                GROUPS[part],
                denominator=denominator,
                tokens_per_group={7: 3, 9: 3},
                num_groups=2,
            ).loss
        )
    total.backward()
    assert float(total.detach()) == pytest.approx(full_loss)
    assert x.grad is not None
    assert x.grad.tolist() == [pytest.approx(row) for row in full_gradient]


def test_a_group_with_zero_advantages_still_counts():
    x = logprobs()
    output = policy_loss(x, torch.tensor([1.0, 1.0, 0.0]), MASK, GROUPS)
    assert float(output.loss.detach()) == pytest.approx(-0.5)  # 1/2 [3/3 + 0]


def test_the_value_does_not_depend_on_the_logprobs_but_the_gradient_does():
    x = logprobs()
    shifted = (x.detach() - 3).requires_grad_()
    for tensor in (x, shifted):
        policy_loss(tensor, ADVANTAGES, MASK, GROUPS).loss.backward()
    assert torch.equal(x.grad, shifted.grad)


def test_padding_may_hold_nan():
    x = torch.full((1, 2), float("nan"), requires_grad=True)
    x = torch.where(torch.tensor([[True, False]]), torch.tensor([[-1.0, 0.0]]), x).detach().requires_grad_()
    output = policy_loss(x, torch.tensor([1.0]), torch.tensor([[1, 0]]), [0])
    output.loss.backward()
    assert float(output.loss.detach()) == -1.0
    assert x.grad.tolist() == [[-1.0, 0.0]]


def test_counts_of_tokens():
    output = policy_loss(logprobs(), torch.tensor([1.0, 0.0, 1.0]), MASK, GROUPS, weight_BT=torch.tensor([[1.0, 0, 0]]))
    assert (output.tokens, output.active_tokens) == (6, 2)


def test_a_group_without_a_count_and_an_unknown_denominator_are_errors():
    with pytest.raises(ValueError, match="lacks groups"):
        policy_loss(logprobs(), ADVANTAGES, MASK, GROUPS, tokens_per_group={7: 3})
    with pytest.raises(ValueError, match="denominator"):
        policy_loss(logprobs(), ADVANTAGES, MASK, GROUPS, denominator="sequence")
