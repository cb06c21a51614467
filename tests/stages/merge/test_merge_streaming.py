"""Streaming: tensors larger than what is kept, any thread count, kills, types, and the other methods."""

import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json
from stages.merge import merge as merge_module
from stages.merge import passes, sources
from stages.merge.merge import merge_checkpoints
from stages.merge.sce import sce_merge, sce_merge_with_report


def model(folder, seed, size=1.0, shape=(300, 257), dtype=torch.float32, base=None):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, name in enumerate(("model.embed_tokens.weight", "model.layers.0.w.weight", "model.norm.weight")):
        of = shape if number == 0 else (16, 8) if number == 1 else (16,)
        value = torch.randn(of, generator=generator) * size
        tensors[name] = (value if base is None else base[name].float() + value).to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {"model_type": "llama", "dtype": str(dtype).removeprefix("torch.")})
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    return tensors


@pytest.fixture
def three(tmp_path):
    base = model(tmp_path / "base", 0)
    model(tmp_path / "a", 1, 0.1, base=base)
    model(tmp_path / "b", 2, 0.2, base=base)
    return tmp_path / "base", [tmp_path / "a", tmp_path / "b"], tmp_path / "out"


def merged(folder):
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


@pytest.mark.parametrize("topk", [1.0, 0.3])
@pytest.mark.parametrize("weighting", ["scale_free", "reference"])
def test_blocks_read_again_from_disk_give_the_bits_of_tensors_in_memory(three, monkeypatch, topk, weighting):
    monkeypatch.setattr(sources, "KEPT_BYTES", 1000)  # the embedding is streamed, the rest kept
    monkeypatch.setattr(passes, "BLOCK", 1 << 16)
    monkeypatch.setattr(sources, "BLOCK", 1 << 16)
    base_dir, expert_dirs, out = three
    merge_checkpoints(base_dir, expert_dirs, out, select_topk=topk, weighting=weighting, threads=3)
    base, *experts = (load_file(folder / "model.safetensors") for folder in (base_dir, *expert_dirs))
    for name, value in merged(out).items():
        expected = sce_merge(base[name], [expert[name] for expert in experts], topk, weighting)
        assert torch.equal(value, expected), name


def test_threads_change_no_byte(three, tmp_path):
    base_dir, expert_dirs, _ = three
    files = []
    for threads in (1, 4):
        out = tmp_path / f"out{threads}"
        merge_checkpoints(base_dir, expert_dirs, out, threads=threads, max_shard_bytes=2000)
        files.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert files[0] == files[1]
    assert len([name for name in files[0] if name.endswith(".safetensors")]) == 2


def test_ties_at_the_threshold_are_taken_in_order_across_chunks(monkeypatch):
    monkeypatch.setattr(passes, "BLOCK", 1 << 4)
    monkeypatch.setattr(passes, "CHUNK", 1 << 3)
    base = torch.zeros(64, dtype=torch.float64)
    first = torch.ones(64, dtype=torch.float64)
    first[40] = 3.0  # variance 9, all others 1
    out, _ = sce_merge_with_report(base, [first, -first], 0.5)
    assert out.nonzero()[:, 0].tolist() == [*range(31), 40]


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 5]), st.floats(-6, 1))
@settings(max_examples=40, deadline=None)
def test_identical_experts_give_the_expert(seed, count, exponent):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(200, generator=generator)
    expert = base + torch.randn(200, generator=generator) * 10**exponent
    expert[::9] = 0.0
    out = sce_merge(base, [expert] * count)
    neighbours = (
        torch.nextafter(expert, torch.full_like(expert, -9e9)),
        torch.nextafter(expert, torch.full_like(expert, 9e9)),
    )
    assert bool(((out >= neighbours[0]) & (out <= neighbours[1])).all())  # one unit in the last place of float32
    assert torch.equal(out.bfloat16(), expert.bfloat16())
    narrow = sce_merge(base.bfloat16(), [expert.bfloat16()] * count)
    assert torch.equal(narrow, expert.bfloat16())


def test_differences_of_1e_5_survive_in_a_checkpoint(tmp_path):
    base = model(tmp_path / "base", 0)
    a = model(tmp_path / "a", 1, 1e-5, base=base)
    model(tmp_path / "b", 2, 2e-5, base=base)
    reports = merge_checkpoints(tmp_path / "base", [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    figures = reports[0].figures
    assert figures.weights == pytest.approx((0.2, 0.8), abs=0.01)
    moved = (merged(tmp_path / "out")["model.embed_tokens.weight"] - base["model.embed_tokens.weight"]).abs().mean()
    assert 1e-5 < float(moved) < 2e-5
    change = merged(tmp_path / "out")["model.embed_tokens.weight"].double() - base["model.embed_tokens.weight"].double()
    own = a["model.embed_tokens.weight"].double() - base["model.embed_tokens.weight"].double()
    cosine = float((change * own).sum() / change.norm() / own.norm())
    assert figures.expert_cosines[0] == pytest.approx(
        cosine, abs=1e-3
    )  # of float32 results, whose rounding counts here
    assert 0.2 < figures.erased_fraction < 0.3  # independent signs: half of the pairs disagree, one of two loses


def test_linear_and_task_arithmetic_are_what_their_names_say(three, tmp_path):
    base_dir, expert_dirs, out = three
    base, a, b = (load_file(folder / "model.safetensors")["model.norm.weight"] for folder in (base_dir, *expert_dirs))
    merge_checkpoints(base_dir, expert_dirs, out, method="linear")
    torch.testing.assert_close(merged(out)["model.norm.weight"], (a + b) / 2, rtol=0, atol=3e-7)
    merge_checkpoints(base_dir, expert_dirs, tmp_path / "t", method="task_arithmetic", weights=[0.5, -1.0])
    expected = base + 0.5 * (a - base) - (b - base)
    torch.testing.assert_close(merged(tmp_path / "t")["model.norm.weight"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "slerp"}, "sce, linear, task_arithmetic"),
        ({"method": "sce", "weights": [1.0, 1.0]}, "computed by sce"),
        ({"method": "linear", "weights": [1.0]}, "1 weights were given for 2 experts"),
        ({"method": "linear", "weights": [1.0, -1.0]}, "must be above 0"),
        ({"select_topk": 0.0}, "select_topk"),
        ({"dtype": "int8"}, "dtype must be one of auto, base, float32, bfloat16, float16"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_work(three, options, message):
    base_dir, expert_dirs, out = three
    with pytest.raises(InputError, match=message):
        merge_checkpoints(base_dir, expert_dirs, out, **options)
    assert not out.exists()
    assert not out.with_name("out.partial").exists()


def test_a_chosen_type_is_written_and_stands_in_the_config(three):
    base_dir, expert_dirs, out = three
    merge_checkpoints(base_dir, expert_dirs, out, dtype="bfloat16")
    assert {value.dtype for value in merged(out).values()} == {torch.bfloat16}
    assert read_json(out / "config.json")["dtype"] == "bfloat16"
    base, *experts = (load_file(f / "model.safetensors")["model.norm.weight"] for f in (base_dir, *expert_dirs))
    assert torch.equal(merged(out)["model.norm.weight"], sce_merge(base, experts).bfloat16())


@pytest.mark.parametrize(
    ("base", "expert", "policy", "written"),
    [
        (torch.bfloat16, torch.float32, "auto", torch.float32),
        (torch.float32, torch.bfloat16, "auto", torch.float32),
        (torch.bfloat16, torch.float32, "base", torch.bfloat16),
        (torch.float32, torch.bfloat16, "base", torch.float32),
        (torch.float32, torch.float32, "float16", torch.float16),
        (torch.bfloat16, torch.bfloat16, "float32", torch.float32),
        (torch.bfloat16, torch.bfloat16, "auto", torch.bfloat16),
    ],
)
def test_the_written_type_is_the_policys_and_the_configs_and_only_the_last_rounding(
    tmp_path, base, expert, policy, written
):
    tensors = model(tmp_path / "base", 0, dtype=base)
    experts = [
        model(tmp_path / name, seed, 0.01 * seed, dtype=expert, base=tensors) for seed, name in ((1, "a"), (2, "b"))
    ]
    merge_checkpoints(tmp_path / "base", [tmp_path / "a", tmp_path / "b"], tmp_path / "out", dtype=policy)
    ours = merged(tmp_path / "out")
    assert {value.dtype for value in ours.values()} == {written}
    assert f"torch.{read_json(tmp_path / 'out' / 'config.json')['dtype']}" == str(written)
    for name, value in ours.items():
        wide = sce_merge(tensors[name].float(), [one[name].float() for one in experts])  # no input is rounded
        # Sums in bfloat16 would be off by a part in 256 of the difference; float32 leaves at most ties of the last rounding.
        apart = value.float() != wide.to(written).float()
        assert float(apart.float().mean()) < 1e-3, name
        torch.testing.assert_close(value.float(), wide.to(written).float(), rtol=2**-7, atol=0)


def test_a_merge_that_was_killed_leaves_nothing_whole_and_goes_on(three, monkeypatch):
    base_dir, expert_dirs, out = three
    made = []
    merge_shard = merge_module._merge_shard

    def dies(work_dir, shard, *rest):
        if len(made) == 1:
            os._exit(9)
        made.append(shard.file)
        return merge_shard(work_dir, shard, *rest)

    child = os.fork()
    if child == 0:
        merge_module._merge_shard = dies
        merge_checkpoints(base_dir, expert_dirs, out, max_shard_bytes=308_500, threads=1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not out.exists()
    work = out.with_name("out.partial")
    first = work / "model-00001-of-00002.safetensors"
    state = first.stat().st_mtime_ns
    assert not (work / "model.safetensors.index.json").exists()
    assert not (work / "config.json").exists()

    monkeypatch.setattr(merge_module, "_merge_shard", lambda *a: (made.append(a[1].file), merge_shard(*a))[1])
    reports = merge_checkpoints(base_dir, expert_dirs, out, max_shard_bytes=308_500)
    assert made == ["model-00002-of-00002.safetensors"]
    assert (out / first.name).stat().st_mtime_ns == state
    assert not work.exists()
    shutil.rmtree(out)
    assert merge_checkpoints(base_dir, expert_dirs, out, max_shard_bytes=308_500) == reports


def test_a_merge_that_was_killed_before_its_last_step_makes_nothing_again(three, monkeypatch):
    base_dir, expert_dirs, out = three
    child = os.fork()
    if child == 0:
        merge_module._into_place = lambda *_: os._exit(9)
        merge_checkpoints(base_dir, expert_dirs, out, threads=1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not out.exists()
    monkeypatch.setattr(merge_module, "_merge_shard", None)
    reports = merge_checkpoints(base_dir, expert_dirs, out)
    assert len(reports) == 3
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_unfinished_work_of_other_inputs_is_not_used(three):
    base_dir, expert_dirs, out = three
    work = out.with_name("out.partial")
    model(base_dir.with_name("nan"), 3)
    broken = load_file(base_dir.with_name("nan") / "model.safetensors")
    broken["model.norm.weight"][3] = float("nan")
    save_file(broken, base_dir.with_name("nan") / "model.safetensors")
    with pytest.raises(InputError, match="NaN"):
        merge_checkpoints(base_dir, [*expert_dirs, base_dir.with_name("nan")], out, max_shard_bytes=308_500)
    assert (work / "model-00001-of-00002.safetensors").exists()
    assert not list(work.glob("*.partial"))
    reports = merge_checkpoints(base_dir, expert_dirs, out, max_shard_bytes=308_500)
    assert len(reports[0].figures.weights) == 2


def test_a_folder_with_other_files_is_not_taken_for_unfinished_work(three):
    base_dir, expert_dirs, out = three
    out.with_name("out.partial").mkdir()
    (out.with_name("out.partial") / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="another program's files"):
        merge_checkpoints(base_dir, expert_dirs, out)
    assert (out.with_name("out.partial") / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("cut", [4, 40, 400, 300_000])
def test_a_torn_file_is_named_wherever_it_is_cut(three, cut):
    base_dir, expert_dirs, out = three
    path = expert_dirs[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"b/model.safetensors cannot be read as safetensors"):
        merge_checkpoints(base_dir, expert_dirs, out)
