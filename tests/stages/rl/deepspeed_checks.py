"""What DeepSpeedPolicy must do, run in every process of a group by process_group.run_together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from stages.common.config import DistributedConfig
from stages.rl.batch import Batch, turn_weights
from stages.rl.deepspeed_policy import DeepSpeedPolicy
from stages.rl.packing import pack_groups
from stages.rl.policy import LossWeights
from stages.rl.torch_policy import TorchPolicy
from tests.stages.rl.tiny_world import OPTIMIZER, random_groups
from tests.train_settings import LORA_OFF, ONE_PROCESS

TOLERANCE = 1e-5
LORA = LORA_OFF | {"rank": 4, "alpha": 8}


def deepspeed_policy(folder: str, compute_dtype: str = "float32", **changes: Any) -> DeepSpeedPolicy:
    config = DistributedConfig.model_validate(ONE_PROCESS | {"backend": "deepspeed"} | changes)
    return DeepSpeedPolicy(
        Path(folder), config, compute_dtype=compute_dtype, temperature=0.7, learning_rate=1e-3, optimizer=OPTIMIZER
    )


def torch_policy(folder: str, compute_dtype: str = "float32") -> TorchPolicy:
    return TorchPolicy(
        Path(folder), compute_dtype=compute_dtype, temperature=0.7, learning_rate=1e-3, optimizer=OPTIMIZER
    )


def batch_of(groups: int = 3, turns: int = 1, budget: int = 60) -> tuple[list, torch.Tensor, LossWeights]:
    """Rows, advantages and weights of a random batch; every third rollout has advantage 0."""
    made = random_groups(groups, 4, 25, (1, 9), turns=turns)
    batch = Batch(made)
    advantages = torch.randn(4 * groups, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    advantages[::3] = 0
    weight, tokens = turn_weights(batch, "token")
    return pack_groups(made, budget), advantages, LossWeights(weight, batch.group_ids_B, tokens, groups, "group")


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest difference of a tensor, relative to its largest value."""
    assert set(ours) == set(theirs)
    return max(float((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max()) for n in theirs)


def equals_one_process(rank: int, *, folder: str, cases: list[dict[str, Any]]) -> int:
    """Loss, scores, gradients, gradient norm and weights after two updates are those of TorchPolicy."""
    for case in cases:
        settings, shape = case["policy"], case.get("batch", {})
        rows, advantages, weights = batch_of(**shape)
        ours, theirs = deepspeed_policy(folder, **settings), torch_policy(folder)
        assert ours.digest() == theirs.digest(), case
        loss, scores = ours.accumulate(rows, advantages, weights)
        expected_loss, expected = theirs.accumulate(rows, advantages, weights)
        assert math.isclose(loss, expected_loss, rel_tol=1e-5, abs_tol=1e-6), (case, loss, expected_loss)
        difference = furthest(ours.gradients, theirs.gradients)
        assert difference < TOLERANCE, (case, difference)
        for mine, other in zip(scores, expected, strict=True):
            torch.testing.assert_close(mine.logprobs_N, other.logprobs_N, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(mine.entropy_N, other.entropy_N, rtol=1e-5, atol=1e-5)
            assert (mine.raw_logprobs_N is None) == (other.raw_logprobs_N is None)
        torch.testing.assert_close(scores[0].raw_logprobs_N, expected[0].raw_logprobs_N, rtol=1e-5, atol=1e-5)
        for ours_alone, other in zip(ours.logprobs_and_entropy(rows), theirs.logprobs_and_entropy(rows), strict=True):
            torch.testing.assert_close(ours_alone.logprobs_N, other.logprobs_N, rtol=1e-5, atol=1e-5)
        norm, applied = ours._apply()
        first = theirs.step(rows, advantages, weights)
        assert applied, case
        assert math.isclose(norm, first.grad_norm, rel_tol=TOLERANCE), (case, norm, first.grad_norm)
        mine, other = ours.step(rows, advantages, weights), theirs.step(rows, advantages, weights)
        assert math.isclose(mine.grad_norm, other.grad_norm, rel_tol=1e-4), (case, mine.grad_norm, other.grad_norm)
        # AdamW divides by the gradient's size, so weights whose gradient is nearly 0 may differ by a step
        for (name, tensor), (other_name, wanted) in zip(ours.named_tensors(), theirs.named_tensors(), strict=True):
            assert name == other_name
            assert float((tensor - wanted).norm() / wanted.norm()) < TOLERANCE, (case, name)
    return len(cases)


def survives(rank: int, *, folder: str, stages: list[int]) -> None:
    """Odd batches and broken numbers."""
    for stage in stages:
        _survives(folder, stage)


def _survives(folder: str, stage: int) -> None:
    policy = deepspeed_policy(folder, zero_stage=stage)
    reference = torch_policy(folder)
    # One row: the other process computes a dummy
    rows, advantages, weights = batch_of(groups=1, budget=2000)
    assert len(rows) == 1
    policy.accumulate(rows, advantages, weights)
    reference.accumulate(rows, advantages, weights)
    assert furthest(policy.gradients, reference.gradients) < TOLERANCE
    policy._apply()
    # An update that is not finite changes nothing, whether gradients say so or a row that has none
    before = policy.digest()
    broken = advantages.clone()
    broken[1] = math.nan
    stats = policy.step(rows, broken, weights)
    assert stats.skipped
    rows, advantages, weights = batch_of(groups=3, budget=40)
    infinite = advantages.clone()
    infinite[4:8] = math.inf
    weights.weight_BT[4:8] = 0
    stats = policy.step(rows, infinite, weights)
    assert stats.skipped
    assert not math.isfinite(stats.loss)
    assert policy.digest() == before
    # and the next one is as if they had not been
    policy.accumulate(rows, advantages, weights)
    alone = deepspeed_policy(folder, zero_stage=stage)
    rows_1, advantages_1, weights_1 = batch_of(groups=1, budget=2000)
    alone.step(rows_1, advantages_1, weights_1)
    alone.accumulate(rows, advantages, weights)
    difference = furthest(policy.gradients, alone.gradients)
    assert difference == 0, difference
    alone._apply()
    # No row has a coefficient: weight decay only, gradient zero
    nothing = alone.step(rows, torch.zeros_like(advantages), weights)
    assert nothing.grad_norm == 0
    assert not nothing.skipped


def saves_and_resumes(rank: int, *, folder: str, out: str, cases: list[tuple[int, str]]) -> None:
    """Saved bytes are those of TorchPolicy; a restored policy goes on bit for bit."""
    for stage, compute_dtype in cases:
        _saves_and_resumes(rank, folder, f"{out}/{stage}", stage, compute_dtype)


def _saves_and_resumes(rank: int, folder: str, out: str, stage: int, compute_dtype: str) -> None:
    rows, advantages, weights = batch_of()
    policy = deepspeed_policy(folder, compute_dtype, zero_stage=stage, offload_optimizer=stage == 3)
    policy.step(rows, advantages, weights)
    saved = {name: tensor.clone() for name, tensor in policy.state_tensors().items()}
    policy.save(Path(out) / "saved")
    assert torch_policy(str(Path(out) / "saved")).digest() == policy.digest()
    policy.step(rows, advantages, weights)
    goal = policy.digest()

    resumed = deepspeed_policy(folder, compute_dtype, zero_stage=stage, offload_optimizer=stage == 3)
    untrained = {name: tensor.clone() for name, tensor in resumed.named_tensors()}
    resumed.load_state_tensors(saved)
    resumed.step(rows, advantages, weights)
    assert resumed.digest() == goal
    resumed.load(Path(folder))
    for name, tensor in resumed.named_tensors():
        assert torch.equal(tensor, untrained[name]), name
    resumed.load(Path(out) / "saved")
    resumed.save(Path(out) / "again")
    if rank == 0:
        reference = torch_policy(str(Path(out) / "saved"))
        reference.save(Path(out) / "reference")
        for path in (Path(out) / "reference").iterdir():
            for copy in ("saved", "again"):
                assert path.read_bytes() == (Path(out) / copy / path.name).read_bytes(), (copy, path.name)


def trains_adapters(rank: int, *, folder: str, out: str, stages: list[int]) -> None:
    """With LoRA: only adapters learn, what comes out is the merged model, and a restored policy goes on bit for bit."""
    for stage in stages:
        _trains_adapters(folder, f"{out}/{stage}", stage)


def _trains_adapters(folder: str, out: str, stage: int) -> None:
    rows, advantages, weights = batch_of()
    policy = deepspeed_policy(folder, zero_stage=stage, lora=LORA)
    reference = torch_policy(folder)
    before = {name: tensor.clone() for name, tensor in reference.named_tensors()}
    for name, tensor in policy.named_tensors():
        assert torch.equal(tensor, before[name]), name  # B is zero
    policy.accumulate(rows, advantages, weights)
    reference.accumulate(rows, advantages, weights)
    assert all(".lora_" in name for name in policy.gradients)
    # d loss / d B = scale * (d loss / d W) A^T
    name, scale = "model.layers.0.self_attn.q_proj", LORA["alpha"] / LORA["rank"]
    a = policy._state.full(dict(policy._named)[f"{name}.lora_A.default.weight"])
    expected = scale * reference.gradients[f"{name}.weight"] @ a.T
    torch.testing.assert_close(policy.gradients[f"{name}.lora_B.default.weight"], expected, rtol=1e-4, atol=1e-6)
    policy._apply()
    saved = {name: tensor.clone() for name, tensor in policy.state_tensors().items()}
    policy.save(Path(out) / "saved")
    merged = torch_policy(str(Path(out) / "saved"))
    changed = {name for name, tensor in merged.named_tensors() if not torch.equal(tensor, before[name])}
    assert changed == {n for n in before if any(f".{m}." in n for m in LORA["target_modules"])}
    for (_, tensor), (_, ours) in zip(merged.named_tensors(), policy.named_tensors(), strict=True):
        torch.testing.assert_close(ours, tensor, rtol=1e-6, atol=1e-7)
    for mine, other in zip(policy.logprobs_and_entropy(rows), merged.logprobs_and_entropy(rows), strict=True):
        torch.testing.assert_close(mine.logprobs_N, other.logprobs_N, rtol=1e-5, atol=1e-5)
    policy.step(rows, advantages, weights)
    goal = policy.digest()
    resumed = deepspeed_policy(folder, zero_stage=stage, lora=LORA)
    resumed.load_state_tensors(saved)
    resumed.step(rows, advantages, weights)
    assert resumed.digest() == goal
