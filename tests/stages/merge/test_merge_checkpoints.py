"""Merging whole folders: streaming, layout, and every way in which the inputs may not fit together."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from stages.common.errors import InputError
from stages.common.storage import md5_of_folder, read_json, write_json, write_model_pointer
from stages.merge.config import MergeConfig, MergeStage
from stages.merge.merge import merge_checkpoints
from stages.merge.sce import sce_merge
from stages.merge.stage import run


def write_model(folder, tensors, config=None, tokenizer=None, template="{{ messages }}"):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config or {"model_type": "llama", "hidden_size": 4})
    write_json(folder / "tokenizer.json", tokenizer or {"model": {"vocab": {"a": 0}}})
    (folder / "chat_template.jinja").write_text(template)
    return folder


def tensors_of(scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.embed_tokens.weight": torch.randn(6, 4, generator=generator) * scale,
        "model.norm.weight": torch.ones(4) + scale,
        "steps": torch.tensor([3], dtype=torch.int64),
    }


@pytest.fixture
def folders(tmp_path):
    base = tensors_of(1.0)
    return {
        "base": write_model(tmp_path / "base", base),
        "a": write_model(tmp_path / "a", {**base, "model.norm.weight": base["model.norm.weight"] + 0.5}),
        "b": write_model(tmp_path / "b", {**base, "model.norm.weight": base["model.norm.weight"] + 1.0}),
        "out": tmp_path / "out",
    }


def merge(folders, **options):
    return merge_checkpoints(folders["base"], [folders["a"], folders["b"]], folders["out"], **options)


def rewrite(folder, **changes):
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "model.safetensors")


def test_each_tensor_is_the_sce_merge_of_its_namesakes(folders):
    reports = {report.name: report for report in merge(folders)}
    merged = load_file(folders["out"] / "model.safetensors")
    base = load_file(folders["base"] / "model.safetensors")
    # 0.5 and 1.0 above the base: w = 0.2 and 0.8, so 0.9 above.
    torch.testing.assert_close(merged["model.norm.weight"], base["model.norm.weight"] + 0.9)
    assert reports["model.norm.weight"].figures.weights == pytest.approx((0.2, 0.8))
    assert reports["model.norm.weight"].figures.cosine == pytest.approx(1.0)
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert reports["steps"].figures is None
    assert merged["steps"].tolist() == [3]


def test_the_file_is_byte_for_byte_what_the_library_writes(folders, tmp_path):
    merge(folders)
    ours = folders["out"] / "model.safetensors"
    theirs = tmp_path / "theirs.safetensors"
    save_file(load_file(ours), theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


def test_config_and_tokenizer_files_are_copied_and_nothing_else(folders):
    (folders["base"] / "training_args.bin").write_bytes(b"x")
    merge(folders)
    assert sorted(path.name for path in folders["out"].iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_shards_hold_the_same_tensors_as_one_file(folders, tmp_path):
    merge(folders)
    sharded = tmp_path / "sharded"
    merge_checkpoints(folders["base"], [folders["a"], folders["b"]], sharded, max_shard_bytes=100)
    index = read_json(sharded / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == 6 * 4 * 4 + 4 * 4 + 8
    files = sorted(set(index["weight_map"].values()))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    whole = load_file(folders["out"] / "model.safetensors")
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(sharded / file)[name], whole[name])


def test_sharded_models_can_be_merged_again(folders, tmp_path):
    sharded = tmp_path / "sharded"
    merge_checkpoints(folders["base"], [folders["a"]], sharded, max_shard_bytes=20)
    merge_checkpoints(sharded, [sharded], tmp_path / "again")
    expected = load_file(folders["a"] / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_transformers_opens_the_merge_of_tied_models_whole_and_sharded(tmp_path):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.save_pretrained(tmp_path / str(seed))
        write_json(tmp_path / str(seed) / "tokenizer.json", {"model": {}})
        folders.append(tmp_path / str(seed))
    # One expert stores its head twice, as some writers do.
    tensors = load_file(folders[1] / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folders[1] / "model.safetensors", metadata={"format": "pt"})
    for number, max_shard_bytes in enumerate((10**9, 4096)):
        out = tmp_path / f"out{number}"
        merge_checkpoints(folders[0], folders[1:], out, max_shard_bytes=max_shard_bytes)
        merged = AutoModelForCausalLM.from_pretrained(out)
        parts = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders]
        for name, tensor in merged.state_dict().items():
            expected = sce_merge(parts[0][name], [parts[1][name], parts[2][name]])
            assert torch.equal(tensor, expected), name
        assert merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()


def test_a_narrow_base_does_not_round_the_experts(folders):
    shutil.rmtree(folders["base"])
    base = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors_of(1.0).items()}
    write_model(folders["base"], base)
    merge(folders)
    merged = load_file(folders["out"] / "model.safetensors")
    assert merged["model.norm.weight"].dtype == torch.float32


def test_a_tied_head_that_differs_is_refused(folders):
    for name in ("base", "a", "b"):
        write_json(folders[name] / "config.json", {"model_type": "llama", "tie_word_embeddings": True})
    rewrite(folders["b"], **{"lm_head.weight": torch.zeros(6, 4)})
    with pytest.raises(InputError, match=r"b: config.json ties the embeddings, but lm_head.weight differs"):
        merge(folders)


def test_a_missing_tensor_is_named(folders):
    rewrite(folders["b"], **{"model.norm.weight": None})
    with pytest.raises(InputError, match=r"b lacks tensors compared with .*base: model.norm.weight"):
        merge(folders)


def test_an_additional_tensor_is_named(folders):
    rewrite(folders["a"], extra=torch.zeros(1))
    with pytest.raises(InputError, match=r"a has additional tensors .*: extra"):
        merge(folders)


def test_another_shape_is_named_with_both_shapes(folders):
    rewrite(folders["a"], **{"model.norm.weight": torch.zeros(5)})
    with pytest.raises(InputError, match=r"a: tensor model.norm.weight has shape \(5,\), in .*base it has \(4,\)"):
        merge(folders)


def test_another_vocabulary_is_called_so(folders):
    rewrite(folders["a"], **{"model.embed_tokens.weight": torch.zeros(7, 4)})
    with pytest.raises(InputError, match="vocabularies differ"):
        merge(folders)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["base", "b"])
def test_a_value_that_is_not_finite_is_refused_with_folder_and_tensor(folders, value, where):
    rewrite(folders[where], **{"model.norm.weight": torch.tensor([1.0, value, 1.0, 1.0])})
    with pytest.raises(InputError, match=rf"{where}: tensor model.norm.weight holds 1 values that are NaN"):
        merge(folders)
    assert not (folders["out"] / "model.safetensors").exists()


def test_integer_tensors_must_be_equal(folders):
    rewrite(folders["b"], steps=torch.tensor([4]))
    with pytest.raises(InputError, match="integer tensor steps differs"):
        merge(folders)


def test_another_architecture_is_refused(folders):
    write_json(folders["b"] / "config.json", {"model_type": "llama", "hidden_size": 8, "dtype": "bfloat16"})
    with pytest.raises(InputError, match=r"describes another model than .*: hidden_size 8 instead of 4"):
        merge(folders)


def test_another_vocabulary_file_is_refused_but_saved_call_state_is_not(folders):
    write_json(folders["b"] / "tokenizer.json", {"model": {"vocab": {"a": 0}}, "padding": {"length": 3}})
    merge(folders)
    write_json(folders["b"] / "tokenizer.json", {"model": {"vocab": {"b": 0}}})
    shutil.rmtree(folders["out"])
    with pytest.raises(InputError, match=r"b/tokenizer.json differs from .* in model"):
        merge(folders)


def test_another_chat_template_is_refused(folders):
    (folders["a"] / "chat_template.jinja").write_text("{{ other }}")
    with pytest.raises(InputError, match="chat templates"):
        merge(folders)


def test_a_missing_shard_is_named(folders, tmp_path):
    sharded = tmp_path / "sharded"
    merge_checkpoints(folders["base"], [folders["a"]], sharded, max_shard_bytes=100)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks model-00002-of-00002.safetensors"):
        merge_checkpoints(folders["base"], [sharded], folders["out"])


def test_a_damaged_file_is_named(folders):
    path = folders["a"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a/model.safetensors cannot be read as safetensors"):
        merge(folders)


def test_a_folder_without_safetensors_is_refused(folders):
    (folders["b"] / "model.safetensors").rename(folders["b"] / "pytorch_model.bin")
    with pytest.raises(InputError, match="only safetensors can be merged"):
        merge(folders)


def test_a_filled_output_folder_is_refused(folders):
    merge(folders)
    with pytest.raises(InputError, match="is not empty"):
        merge(folders)


def test_one_expert_with_selection_warns_and_gives_the_base(folders, caplog):
    with caplog.at_level(logging.WARNING):
        merge_checkpoints(folders["base"], [folders["a"]], folders["out"], select_topk=0.5)
    assert "the result is the base" in caplog.text
    merged = load_file(folders["out"] / "model.safetensors")
    torch.testing.assert_close(merged, load_file(folders["base"] / "model.safetensors"), rtol=0, atol=0)


def test_the_stage_writes_model_pointer_and_report_and_repeats_its_bytes(folders, tmp_path):
    inputs = {}
    for name, folder in (("base", "base"), ("stage3", "a"), ("memory", "b")):
        inputs[name] = tmp_path / "outputs" / name
        inputs[name].mkdir(parents=True)
        write_model_pointer(inputs[name], folders[folder])
    config = MergeStage(
        merge=MergeConfig(method="sce", select_topk=1.0, weighting="scale_free", dtype="auto", weights=None)
    )
    emitted = []
    sums = []
    for number in range(2):
        out_dir = tmp_path / f"data{number}"
        out_dir.mkdir()
        counts = run(config, inputs, out_dir, tmp_path / "state", lambda step, values: emitted.append((step, values)))
        sums.append(md5_of_folder(out_dir))
        assert counts == {"tensors": 3, "parameters": 24 + 4 + 1}
    assert sums[0] == sums[1]
    report = json.loads((out_dir / "merge.json").read_text())
    assert report["summary"] == {
        "changed_tensors": 1.0,
        "cosine": pytest.approx(1.0),
        "erased_fraction": 0.0,
        "weight_stage3": pytest.approx(0.2),
        "weight_memory": pytest.approx(0.8),
        "cosine_to_stage3": pytest.approx(1.0),
        "cosine_to_memory": pytest.approx(1.0),
    }
    assert [row["name"] for row in report["tensors"]] == ["model.embed_tokens.weight", "model.norm.weight", "steps"]
    assert emitted[0][1]["merge/weight_memory"] == pytest.approx(0.8)
    assert str(tmp_path) not in (out_dir / "merge.json").read_text()


def test_a_merge_reports_the_same_figures_each_time(tmp_path):
    # A thread of the pool learns the number of torch's threads at its first large tensor; until then it shared out sums of
    # 4,096 elements, so that the last bits hung on which thread met which tensor.
    sizes = [40_000, *[4096] * 40]
    base, a, b = (
        {
            f"layer.{i}.weight": torch.randn(n, generator=torch.Generator().manual_seed(99 * k + i))
            for i, n in enumerate(sizes)
        }
        for k in range(3)
    )
    write_model(tmp_path / "base", base)
    for name, difference in (("a", a), ("b", b)):
        write_model(tmp_path / name, {key: base[key] + 1e-3 * value for key, value in difference.items()})
    seen = {
        str(merge_checkpoints(tmp_path / "base", [tmp_path / "a", tmp_path / "b"], tmp_path / f"out{i}"))
        for i in range(12)
    }
    assert len(seen) == 1
