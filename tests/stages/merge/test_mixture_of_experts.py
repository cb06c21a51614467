"""Mixtures of experts in both layouts: one tensor per expert, as transformers writes, and stacks, as it holds them."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json
from stages.merge.merge import merge_checkpoints
from stages.merge.sce import sce_merge

LAYERS, EXPERTS = 2, 3


def by_hand(base, models):
    """Recipe section 5 with topk = 1, in float64, written down again: select all, calculate, erase, add."""
    base = base.double()
    differences = [model.double() - base for model in models]
    squares = [float((difference**2).mean()) for difference in differences]
    weights = [square / sum(squares) for square in squares]
    majority = torch.where(sum(differences) >= 0, 1.0, -1.0)
    kept = [(torch.sign(difference) == majority).double() for difference in differences]
    above = sum(w * keep * difference for w, keep, difference in zip(weights, kept, differences, strict=True))
    below = sum(w * keep for w, keep in zip(weights, kept, strict=True))
    return base + torch.where(below > 0, above / below.clamp(min=1e-300), 0.0)


def of_folder(folder):
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def assert_merged(merged, base, models, name):
    value = merged[name]
    others = [model[name] for model in models]
    assert torch.equal(value, sce_merge(base[name], others)), name
    torch.testing.assert_close(value.double(), by_hand(base[name], others), rtol=0, atol=1e-7)
    assert not any(torch.equal(value, other) for other in (base[name], *others)), name


def moe(folder, seed, base=None):
    config = Qwen3MoeConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, moe_intermediate_size=8, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=EXPERTS, num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(seed)
    made = Qwen3MoeForCausalLM(config)
    if base is not None:
        values = {name: value + 0.01 * seed * torch.randn(value.shape) for name, value in base.state_dict().items()}
        made.load_state_dict(values)
    made.save_pretrained(folder, max_shard_size="20KB")
    write_json(folder / "tokenizer.json", {"model": {}})
    return made


def stacked(folder, model, like):
    """The tensors as transformers holds them: all experts of a layer in one."""
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        shutil.copyfile(like / file, folder / file)
    return folder


def three_models(tmp_path):
    """(base, models): two models whose differences from the base are of unequal size, so that the weights are too."""
    base = moe(tmp_path / "base", 0)
    return base, [moe(tmp_path / name, seed, base) for seed, name in enumerate(("a", "b"), start=1)]


def test_every_expert_of_the_layout_per_expert_is_the_merge_of_its_namesakes(tmp_path):
    three_models(tmp_path)
    folders = [tmp_path / name for name in ("base", "a", "b")]
    merge_checkpoints(folders[0], folders[1:], tmp_path / "out", max_shard_bytes=20_000)
    merged = of_folder(tmp_path / "out")
    base, *models = map(of_folder, folders)
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
        for part in ("gate", "up", "down")
    ]
    assert set(names) == {name for name in merged if ".experts." in name}
    for name in names:
        assert_merged(merged, base, models, name)
    values = [merged[name] for name in names if name.endswith("gate_proj.weight")]
    assert not any(torch.equal(values[0], value) for value in values[1:])  # a swap of experts would be seen


def test_every_expert_of_a_stack_is_merged_with_the_weights_of_the_whole_stack(tmp_path):
    base, models = three_models(tmp_path)
    folders = [stacked(tmp_path / f"stacked_{name}", model, tmp_path / "base")
               for name, model in zip(("base", "a", "b"), (base, *models), strict=True)]  # fmt: skip
    reports = merge_checkpoints(folders[0], folders[1:], tmp_path / "out")
    merged = of_folder(tmp_path / "out")
    base_tensors, *model_tensors = map(of_folder, folders)
    weights = {report.name: report.figures.weights for report in reports}
    for layer in range(LAYERS):
        for part in ("gate_up_proj", "down_proj"):
            name = f"model.layers.{layer}.mlp.experts.{part}"
            assert len(merged[name]) == EXPERTS
            assert_merged(merged, base_tensors, model_tensors, name)
            # Twice the difference, four times the weight; an expert alone would have a slightly other one.
            assert weights[name] == pytest.approx((0.2, 0.8), abs=0.03)
            alone = sce_merge(base_tensors[name][0], [tensors[name][0] for tensors in model_tensors])
            assert not torch.equal(merged[name][0], alone)
    opened = Qwen3MoeForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, value in merged.items():
        assert torch.equal(opened[name], value), name


def test_a_mixture_of_experts_is_merged_and_indexed_as_transformers_saves_it(tmp_path):
    base, experts = three_models(tmp_path)
    merge_checkpoints(
        tmp_path / "base", [tmp_path / "a", tmp_path / "b"], tmp_path / "out", max_shard_bytes=20_000
    )  # fmt: skip
    ours = Qwen3MoeForCausalLM.from_pretrained(tmp_path / "out")
    names = list(read_json(tmp_path / "out" / "model.safetensors.index.json")["weight_map"])
    assert any(".experts.0." in name for name in names)
    for name, value in ours.state_dict().items():
        if ".experts." not in name:
            expected = sce_merge(base.state_dict()[name], [e.state_dict()[name] for e in experts])
            assert torch.equal(value, expected), name
    ours.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    again = read_json(tmp_path / "again" / "model.safetensors.index.json")
    index = read_json(tmp_path / "out" / "model.safetensors.index.json")
    assert index["metadata"] == again["metadata"]
    assert index["weight_map"].keys() == again["weight_map"].keys()


def test_one_layout_is_never_merged_with_the_other(tmp_path):
    base = moe(tmp_path / "apart", 0)
    stacked(tmp_path / "stacked", base, tmp_path / "apart")
    for pair in (("stacked", "apart"), ("apart", "stacked")):
        with pytest.raises(
            InputError, match=r"stacked keeps the experts of a layer stacked in one tensor, .*apart one"
        ):
            merge_checkpoints(tmp_path / pair[0], [tmp_path / pair[1]], tmp_path / "no")
