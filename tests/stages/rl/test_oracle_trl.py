"""A whole update against TRL's GRPOTrainer, and the LM head against TRL's fused one."""

from pathlib import Path

import pytest
import torch

from stages.common.rollouts import RolloutGroup
from stages.rl.batch import Batch, turn_weights
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.packing import pack_groups
from stages.rl.policy import LossWeights
from tests.stages.rl.tiny_world import make_policy, random_groups, write_model_folder

pytest.importorskip("trl", reason="trl is not installed")


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_head_equals_trls_chunked_one(temperature):
    chunked = pytest.importorskip("trl.kernels.chunked_logprob")
    generator = torch.Generator().manual_seed(2)
    hidden_NH = torch.randn(23, 16, generator=generator).requires_grad_()
    head_VH = torch.randn(97, 16, generator=generator).requires_grad_()
    targets_N = torch.randint(0, 97, (23,), generator=generator)
    weights_N = torch.linspace(-1, 1, 23)
    theirs, entropy, *_ = chunked.ChunkedLogProbFunction.apply(
        hidden_NH, head_VH, None, targets_N, temperature, 32, None, 1.0, ("entropy",)
    )
    ours, our_entropy = token_logprobs_and_entropy(hidden_NH, head_VH, targets_N, temperature, 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_entropy, entropy, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad((theirs * weights_N).sum(), [hidden_NH, head_VH])
    for mine, other in zip(torch.autograd.grad((ours * weights_N).sum(), [hidden_NH, head_VH]), expected, strict=True):
        assert (mine - other).norm() / other.norm() < 1e-5


def trl_inputs(groups: list[RolloutGroup], advantages_B: torch.Tensor, pad: int) -> dict[str, torch.Tensor]:
    """Frozen rollouts as TRL pads them: prompts on the left, completions on the right."""
    pairs = [(r.segments[0].prompt_ids, r.segments[0].response_ids) for g in groups for r in g.rollouts]
    longest_prompt, longest_answer = (max(len(pair[side]) for pair in pairs) for side in (0, 1))
    prompts = [(pad,) * (longest_prompt - len(p)) + p for p, _ in pairs]
    answers = [a + (pad,) * (longest_answer - len(a)) for _, a in pairs]
    prompt_lengths = torch.tensor([len(p) for p, _ in pairs])
    answer_lengths = torch.tensor([len(a) for _, a in pairs])
    return {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": (torch.arange(longest_prompt)[None] >= (longest_prompt - prompt_lengths)[:, None]).long(),
        "completion_ids": torch.tensor(answers),
        "completion_mask": (torch.arange(longest_answer)[None] < answer_lengths[:, None]).long(),
        "advantages": advantages_B.float(),
        "num_items_in_batch": answer_lengths.sum(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_loss_and_gradients_of_frozen_rollouts_equal_those_of_trls_trainer(tmp_path: Path, kind):
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    folder = write_model_folder(tmp_path, kind)
    groups = random_groups(2, 3, 20, (2, 9))
    # Prompts of two lengths, so that TRL pads
    groups[1] = random_groups(1, 3, 11, (1, 7), seed=4)[0]
    advantages_B = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, beta=0.0, loss_type="dapo", temperature=0.7,
            num_generations=3, per_device_train_batch_size=6, max_completion_length=9, report_to="none",
            activation_checkpointing=False, router_aux_loss_coef=0.0 if kind == "qwen3_moe" else None,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a"}] * 2),
        processing_class=tokenizer,
    )  # fmt: skip
    model.eval()
    loss = trainer._compute_loss(model, trl_inputs(groups, advantages_B, tokenizer.pad_token_id))
    loss.backward()

    policy = make_policy(folder)
    batch = Batch(groups)
    weight_BT, tokens = turn_weights(batch, "token")
    ours, _ = policy.accumulate(
        pack_groups(groups, 200), advantages_B, LossWeights(weight_BT, batch.group_ids_B, tokens, 2, "batch")
    )
    assert ours == pytest.approx(float(loss.detach()), rel=1e-5)
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(theirs) == set(policy.gradients)
    flat = [torch.cat([grads[name].flatten() for name in sorted(grads)]) for grads in (theirs, policy.gradients)]
    assert (flat[0] - flat[1]).norm() / flat[0].norm() < 1e-5
