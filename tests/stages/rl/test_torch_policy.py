import copy
import json
import logging
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from stages.common.errors import InputError
from stages.common.rollouts import Rollout, RolloutGroup, Segment
from stages.rl import selfcheck
from stages.rl.batch import Batch, turn_weights
from stages.rl.packing import pack_groups, unshared_tokens
from stages.rl.policy import LossWeights
from stages.rl.selfcheck import check_forward
from tests.stages.rl.tiny_world import make_policy, random_groups, write_model_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: write_model_folder(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "qwen3_moe")}


def loss_weights(batch: Batch, denominator: str = "group") -> LossWeights:
    weight, tokens = turn_weights(batch, "token")
    return LossWeights(weight, batch.group_ids_B, tokens, len(batch.groups), denominator)


def advantages_of(groups: list[RolloutGroup]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(len(g.rollouts) for g in groups), generator=generator, dtype=torch.float64)


def unshared_gradients(folder: Path, groups: list[RolloutGroup], advantages: torch.Tensor) -> dict[str, torch.Tensor]:
    """Eq. 4 by separate sequences through the model's own forward pass and cross entropy."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    index = 0
    for group in groups:
        tokens = sum(rollout.num_response_tokens for rollout in group.rollouts)
        for rollout in group.rollouts:
            for segment in rollout.segments:
                ids = torch.tensor([segment.prompt_ids + segment.response_ids])
                logits = model(input_ids=ids).logits[0, len(segment.prompt_ids) - 1 : -1] / 0.7
                nll = torch.nn.functional.cross_entropy(logits, torch.tensor(segment.response_ids), reduction="sum")
                (advantages[index].float() * nll / tokens / len(groups)).backward()
            index += 1
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize(
    "budget", [36, 60, 2000]
)  # one or two answers to a row; the group split; everything in one row
@pytest.mark.parametrize("turns", [1, 2])
def test_gradients_of_shared_prefixes_equal_those_of_separate_sequences(folders, kind, budget, turns):
    groups = random_groups(3, 4, 25, (1, 9), turns=turns)
    advantages = advantages_of(groups)
    policy = make_policy(folders[kind])
    policy.accumulate(pack_groups(groups, budget), advantages, loss_weights(Batch(groups)))
    expected = unshared_gradients(folders[kind], groups, advantages)
    assert set(policy.gradients) == set(expected)
    for name, gradient in policy.gradients.items():
        difference = (gradient - expected[name]).abs().max() / expected[name].abs().max()
        assert difference < 1e-5, f"{name}: {difference}"


def section_first_groups(groups: int, size: int, turns: int) -> list[RolloutGroup]:
    """Prompts of a turn share 20 to 30 tokens and end with a memory of 1 to 12; two members have equal memories."""
    chance = random.Random(3)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(chance.randrange(200) for _ in range(chance.randint(low, high)))

    made = []
    for number in range(groups):
        chunks = [ids(20, 30) for _ in range(turns)]
        memories = [ids(1, 12) for _ in range(size - 1)]
        rollouts = [
            Rollout(
                tuple(
                    Segment(chunk + (memory if turn else ()), response, (0.0,) * len(response), "memory", "stop")
                    for turn, chunk in enumerate(chunks)
                    for response in [ids(1, 6)]
                ),
                "",
                0.0,
            )
            for memory in [*memories, memories[0]]
        ]
        made.append(RolloutGroup(f"s{number}", "numerical", number, tuple(rollouts)))
    return made


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("budget", [50, 90, 2000])
def test_gradients_of_shared_chunks_with_different_memories_equal_those_of_separate_sequences(folders, kind, budget):
    groups = section_first_groups(2, 4, 3)
    rows = pack_groups(groups, budget)
    if budget == 2000:
        assert sum(row.num_tokens for row in rows) < 0.55 * unshared_tokens(groups)
    advantages = advantages_of(groups)
    policy = make_policy(folders[kind])
    policy.accumulate(rows, advantages, loss_weights(Batch(groups)))
    expected = unshared_gradients(folders[kind], groups, advantages)
    for name, gradient in policy.gradients.items():
        difference = (gradient - expected[name]).abs().max() / expected[name].abs().max()
        assert difference < 1e-5, f"{name}: {difference}"


def test_scores_are_those_of_the_full_forward_pass(folders):
    groups = random_groups(2, 3, 10, (1, 6))
    policy = make_policy(folders["llama"])
    rows = pack_groups(groups, 1000, trees_per_row=1)
    scores = policy.logprobs_and_entropy(rows)
    stats = policy.step(rows, torch.zeros(6, dtype=torch.float64), loss_weights(Batch(groups)))
    model = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32).eval()
    place = 0
    for rollout in groups[0].rollouts:
        (segment,) = rollout.segments
        logits = model(input_ids=torch.tensor([segment.prompt_ids + segment.response_ids])).logits[0].detach()
        logits = logits[len(segment.prompt_ids) - 1 : -1]
        here = slice(place, place + len(segment.response_ids))
        target = torch.tensor(segment.response_ids)[:, None]
        cold = torch.log_softmax(logits / 0.7, -1)
        torch.testing.assert_close(scores[0].logprobs_N[here], cold.gather(1, target)[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores[0].entropy_N[here], -(cold.exp() * cold).sum(-1), rtol=1e-4, atol=1e-4)
        raw = torch.log_softmax(logits, -1).gather(1, target)[:, 0]
        torch.testing.assert_close(stats.scores[0].raw_logprobs_N[here], raw, rtol=1e-4, atol=1e-4)
        place = here.stop
    assert stats.scores[1].raw_logprobs_N is None


def test_a_step_raises_the_log_probability_of_good_answers_and_lowers_that_of_bad_ones(folders):
    groups = random_groups(1, 2, 10, (5, 5))
    policy = make_policy(folders["llama"], learning_rate=1e-3)
    rows = pack_groups(groups, 1000)
    before = policy.logprobs_and_entropy(rows)[0].logprobs_N
    stats = policy.step(rows, torch.tensor([1.0, -1.0], dtype=torch.float64), loss_weights(Batch(groups)))
    change = policy.logprobs_and_entropy(rows)[0].logprobs_N - before
    assert not stats.skipped
    assert stats.grad_norm > 0
    assert change[:5].sum() > 0 > change[5:].sum()


def test_rows_without_a_coefficient_give_no_gradient_but_are_scored(folders):
    groups = random_groups(2, 2, 10, (3, 3))
    policy = make_policy(folders["llama"])
    loss, scores = policy.accumulate(
        pack_groups(groups, 1000, 1), torch.zeros(4, dtype=torch.float64), loss_weights(Batch(groups))
    )
    assert loss == 0
    assert all(not gradient.any() for gradient in policy.gradients.values())
    assert all(torch.isfinite(score.entropy_N).all() for score in scores)


def test_bfloat16_compute_keeps_float32_masters(folders):
    groups = random_groups(2, 3, 20, (3, 8))
    advantages = advantages_of(groups)
    exact, rounded = make_policy(folders["llama"]), make_policy(folders["llama"], compute_dtype="bfloat16")
    for policy in (exact, rounded):
        policy.accumulate(pack_groups(groups, 1000), advantages, loss_weights(Batch(groups)))
    flat = [torch.cat([g.flatten() for g in policy.gradients.values()]) for policy in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.99
    assert all(gradient.dtype == torch.float32 for gradient in rounded.gradients.values())

    rounded.step(pack_groups(groups, 1000), advantages, loss_weights(Batch(groups)))
    masters = {k.removeprefix("weight/"): v for k, v in rounded.state_tensors().items() if k.startswith("weight/")}
    for name, tensor in rounded.named_tensors():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, masters[name].to(torch.bfloat16))
    assert any(not torch.equal(m, m.to(torch.bfloat16).float()) for m in masters.values())


def test_rotary_frequencies_stay_float32_in_a_bfloat16_copy(folders):
    policy = make_policy(folders["llama"], compute_dtype="bfloat16")
    assert {buffer.dtype for buffer in policy.model.buffers()} == {torch.float32}


def test_tied_embeddings_are_trained_listed_and_saved_once(folders, tmp_path):
    policy = make_policy(folders["llama"], compute_dtype="bfloat16")
    names = [name for name, _ in policy.named_tensors()]
    assert "lm_head.weight" not in names
    assert policy.model.lm_head.weight is policy.model.model.embed_tokens.weight
    policy.save(tmp_path / "model")
    assert "lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_a_saved_model_is_float32_opens_in_transformers_and_has_equal_bytes_every_time(folders, tmp_path, kind):
    groups = random_groups(1, 2, 10, (5, 5))
    policy = make_policy(folders[kind], compute_dtype="bfloat16")
    policy.step(pack_groups(groups, 1000), torch.tensor([1.0, -1.0]).double(), loss_weights(Batch(groups)))
    policy.save(tmp_path / "a")
    policy.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert {t.dtype for t in load_file(tmp_path / "a" / "model.safetensors").values()} == {torch.float32}
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert "transformers_version" not in config
    assert config["dtype"] == "float32"
    again = make_policy(tmp_path / "a")
    assert again.digest() == policy.digest()
    other = make_policy(folders[kind])
    other.load(tmp_path / "a")
    assert other.digest() == policy.digest()


def test_training_goes_on_bit_for_bit_from_state_tensors(folders):
    groups = random_groups(2, 3, 10, (3, 6))
    rows, advantages, weights = pack_groups(groups, 100), advantages_of(groups), loss_weights(Batch(groups))
    unbroken = make_policy(folders["llama"], compute_dtype="bfloat16")
    unbroken.step(rows, advantages, weights)
    saved = {name: tensor.clone() for name, tensor in unbroken.state_tensors().items()}
    unbroken.step(rows, advantages, weights)
    resumed = make_policy(folders["llama"], compute_dtype="bfloat16")
    resumed.load_state_tensors(saved)
    resumed.step(rows, advantages, weights)
    assert resumed.digest() == unbroken.digest()


def test_a_step_that_is_not_finite_changes_nothing(folders):
    groups = random_groups(1, 2, 10, (5, 5))
    policy = make_policy(folders["llama"])
    before = policy.digest()
    weights = loss_weights(Batch(groups))
    weights.weight_BT[0, 0] = float("nan")
    stats = policy.step(pack_groups(groups, 1000), torch.tensor([1.0, -1.0]).double(), weights)
    assert stats.skipped
    assert policy.digest() == before


def test_weights_of_another_model_are_refused(folders):
    with pytest.raises(InputError, match="another model"):
        make_policy(folders["llama"]).load(folders["qwen3_moe"])


SHAPE = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_a_model_that_scales_its_logits_is_refused(tmp_path):
    folder = write_model_folder(tmp_path)
    model = GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0, initializer_range=0.3)).eval()
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="does not reproduce"):
        make_policy(folder)
    with pytest.raises(InputError, match="does not reproduce"):
        check_forward(model.bfloat16(), folder)


def sharp_llama() -> LlamaForCausalLM:
    """Sharp attention in many layers, as a trained model has it: in bfloat16 its gradients are far from those in float32."""
    torch.manual_seed(1)
    deep = SHAPE | {"hidden_size": 64, "num_hidden_layers": 16, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**deep)).eval()


def test_gradients_may_differ_by_what_bfloat16_rounds_by_itself(tmp_path, caplog):
    exact = sharp_llama()
    with caplog.at_level(logging.INFO, logger="stages.rl.selfcheck"):
        check_forward(copy.deepcopy(exact).bfloat16(), tmp_path, exact=exact)
    assert "away from those in float32" in caplog.text


def test_wrong_gradients_are_refused_also_of_a_model_that_rounds_a_lot(tmp_path, monkeypatch):
    exact = sharp_llama()
    right = selfcheck._shared

    def half_of_them(*arguments):
        logprobs_N = right(*arguments)
        return torch.cat([logprobs_N[:4], logprobs_N[4:].detach()])

    monkeypatch.setattr(selfcheck, "_shared", half_of_them)
    with pytest.raises(InputError, match="does not reproduce"):
        check_forward(copy.deepcopy(exact).bfloat16(), tmp_path, exact=exact)


def test_a_model_with_a_sliding_window_is_refused_also_if_the_window_is_long(tmp_path):
    folder = write_model_folder(tmp_path)
    MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4096)).save_pretrained(folder)
    with pytest.raises(InputError, match="full attention"):
        make_policy(folder)


def test_a_folder_without_a_model_is_refused(tmp_path, folders):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((folders["llama"] / name).read_bytes())
    with pytest.raises(InputError, match="no model"):
        make_policy(folder)
