"""Policies on a CUDA device: prefix-tree rows in bfloat16 against dense float32, DeepSpeed against plain torch, memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from stages.base_model.random_model import make_tokenizer
from stages.base_model.saving import save_model
from stages.common.config import DistributedConfig, LoraConfig
from stages.common.rollouts import Rollout, RolloutGroup, Segment
from stages.rl.batch import Batch, turn_weights
from stages.rl.packing import pack_groups
from stages.rl.policy import LossWeights, OptimizerSettings
from stages.rl.torch_policy import TorchPolicy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

OPTIMIZER = OptimizerSettings(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0)
SHAPE = {
    "vocab_size": 2_000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 131_072, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "norm_topk_prob": True}
    models = {
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
        "qwen3_moe": Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **experts)),
    }
    made = {}
    for kind, model in models.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        save_model(model, make_tokenizer(), made[kind])
    return made


def make_groups(prompts: list[int], answers: int, length: int) -> list[RolloutGroup]:
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 2_000, (count,), generator=generator).tolist())

    groups = []
    for place, tokens in enumerate(prompts):
        prompt = draw(tokens)
        rollouts = []
        for member in range(answers):
            answer = draw(length - 3 * member)
            segment = Segment(prompt, answer, (0.0,) * len(answer), "answer", "stop")
            rollouts.append(Rollout((segment,), "", float(member % 2)))
        groups.append(RolloutGroup(f"s{place}", "numerical", place, tuple(rollouts)))
    return groups


def make_policy(folder: Path, compute_dtype: str, checkpointing: bool = False) -> TorchPolicy:
    return TorchPolicy(
        folder, compute_dtype=compute_dtype, temperature=0.7, learning_rate=1e-3, optimizer=OPTIMIZER,
        activation_checkpointing=checkpointing,
    )  # fmt: skip


def gradients(policy, groups: list[RolloutGroup]) -> torch.Tensor:
    batch = Batch(groups)
    weight, tokens = turn_weights(batch, "token")
    weights = LossWeights(weight, batch.group_ids_B, tokens, len(groups), "group")
    advantages = torch.where(batch.rewards_B > 0, 1.0, -0.7)
    rows = pack_groups(groups, 100_000, trees_per_row=policy.trees_per_row)
    policy.accumulate(rows, advantages, weights)
    return torch.cat([gradient.flatten().float().cpu() for _, gradient in sorted(policy.gradients.items())])


def relative_l2(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).norm() / two.norm())


def test_tree_rows_in_bfloat16_have_the_gradients_of_dense_float32(folders: dict[str, Path]) -> None:
    groups = make_groups([2500, 300, 40], 4, 50)
    exact = gradients(make_policy(folders["qwen3"], "float32"), groups)
    for checkpointing in (False, True):
        policy = make_policy(folders["qwen3"], "bfloat16", checkpointing)
        assert policy.trees_per_row is None
        assert relative_l2(gradients(policy, groups), exact) < 5e-2


def test_experts_are_accepted_by_the_check_at_the_start(folders: dict[str, Path]) -> None:
    gradient = gradients(
        make_policy(folders["qwen3_moe"], "bfloat16", checkpointing=True), make_groups([2100, 70], 4, 30)
    )
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.norm()) > 0


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_deepspeed_has_the_gradients_of_plain_torch(folders: dict[str, Path], zero_stage: int) -> None:
    pytest.importorskip("deepspeed")
    from stages.rl.deepspeed_policy import DeepSpeedPolicy

    groups = make_groups([2500, 300, 40], 4, 50)
    plain = gradients(make_policy(folders["qwen3"], "bfloat16"), groups)
    fields = {name: False for name, field in DistributedConfig.model_fields.items() if field.annotation is bool}
    lora = LoraConfig.model_construct(rank=0, alpha=1.0, target_modules=[])
    distributed = DistributedConfig.model_construct(
        **fields
        | {"backend": "deepspeed", "zero_stage": zero_stage, "sequence_parallel": 1, "processes": 1, "lora": lora}
    )
    policy = DeepSpeedPolicy(
        folders["qwen3"],
        distributed,
        compute_dtype="bfloat16",
        temperature=0.7,
        learning_rate=1e-3,
        optimizer=OPTIMIZER,
    )
    assert relative_l2(gradients(policy, groups), plain) < 5e-2  # DeepSpeed keeps bfloat16 gradients


def test_memory_grows_linearly_with_tokens(folders: dict[str, Path]) -> None:
    policy = make_policy(folders["qwen3"], "bfloat16", checkpointing=True)
    peaks = []
    for tokens in (16_384, 32_768, 65_536):
        groups = make_groups([tokens], 8, 64)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        gradients(policy, groups)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 2.2 * peaks[0]
    assert peaks[2] < 2.2 * peaks[1]
