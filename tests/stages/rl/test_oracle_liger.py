"""The loss against Liger's GRPO functions on frozen rollouts: values and gradients."""

import pytest
import torch

from stages.rl.head import token_logprobs_and_entropy
from stages.rl.loss import policy_loss

grpo_loss = pytest.importorskip("liger_kernel.chunked_loss.grpo_loss", reason="liger-kernel is not installed")

GROUPS = torch.tensor([0, 0, 1, 1, 1, 2])
B, T, H, V = 6, 9, 16, 40


def frozen_rollouts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logprobs_BT, mask_BT, advantages_B), lengths 1 to T."""
    generator = torch.Generator().manual_seed(3)
    logprobs_BT = -torch.rand(B, T, generator=generator, dtype=torch.float64) * 4
    lengths_B = torch.tensor([9, 1, 4, 7, 2, 5])
    mask_BT = (torch.arange(T)[None] < lengths_B[:, None]).double()
    advantages_B = torch.randn(B, generator=generator, dtype=torch.float64)
    return logprobs_BT.requires_grad_(), mask_BT, advantages_B


def gradient_of(loss: torch.Tensor, logprobs_BT: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, logprobs_BT)
    return gradient


def liger(logprobs_BT: torch.Tensor, mask_BT: torch.Tensor, advantages_B: torch.Tensor, loss_type: str) -> torch.Tensor:
    loss, _ = grpo_loss.LigerFusedLinearGRPOFunction.ppo_loss_fn(
        logprobs_BT, mask_BT, advantages_B, mask_BT, beta=0.0, loss_type=loss_type, max_completion_length=T
    )
    return loss


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])
def test_the_batch_denominator_is_the_token_mean_of_dapo(loss_type):
    logprobs_BT, mask_BT, advantages_B = frozen_rollouts()
    ours = policy_loss(logprobs_BT, advantages_B, mask_BT, GROUPS, denominator="batch").loss
    theirs = liger(logprobs_BT, mask_BT, advantages_B, loss_type)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(ours, logprobs_BT), gradient_of(theirs, logprobs_BT), rtol=1e-12, atol=1e-15)


def test_the_group_denominator_is_the_mean_over_groups_of_their_token_means():
    logprobs_BT, mask_BT, advantages_B = frozen_rollouts()
    ours = policy_loss(logprobs_BT, advantages_B, mask_BT, GROUPS, denominator="group").loss
    members = [group == GROUPS for group in range(3)]
    theirs = sum(liger(logprobs_BT[m], mask_BT[m], advantages_B[m], "bnpo") for m in members) / 3
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(ours, logprobs_BT), gradient_of(theirs, logprobs_BT), rtol=1e-12, atol=1e-15)


def test_hidden_states_to_loss_with_its_gradients_equals_ligers_fused_loss():
    generator = torch.Generator().manual_seed(5)
    _, mask_BT, advantages_B = frozen_rollouts()
    hidden_BTH = torch.randn(B, T, H, generator=generator).requires_grad_()
    head_VH = (torch.randn(V, H, generator=generator) * 0.3).requires_grad_()
    targets_BT = torch.randint(0, V, (B, T), generator=generator)

    fused = grpo_loss.LigerFusedLinearGRPOLoss(
        beta=0.0, compiled=False, use_ref_model=False, loss_type="bnpo", temperature=0.7
    )
    theirs, _ = fused(hidden_BTH, head_VH, targets_BT, mask_BT.float(), advantages_B.float())
    expected = torch.autograd.grad(theirs, [hidden_BTH, head_VH])

    logprobs_N, _ = token_logprobs_and_entropy(hidden_BTH.reshape(-1, H), head_VH, targets_BT.reshape(-1), 0.7, 7)
    ours = policy_loss(logprobs_N.reshape(B, T), advantages_B, mask_BT, GROUPS, denominator="batch").loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    for mine, other in zip(torch.autograd.grad(ours, [hidden_BTH, head_VH]), expected, strict=True):
        assert (mine - other).norm() / other.norm() < 1e-5
