import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig

from stages.common.errors import ConfigError
from stages.rl.batch import Batch, turn_weights
from stages.rl.packing import pack_groups
from stages.rl.planner import (
    USABLE,
    MemoryModel,
    ModelShape,
    _control_group_bytes,
    available_bytes,
    plan_row_tokens,
)
from stages.rl.policy import LossWeights
from tests.stages.rl.tiny_world import make_policy, random_groups, write_model_folder

GB = 2**30
SHAPE = ModelShape(
    parameters=10**9, layers=28, hidden=1024, attention=2048, key_value=1024, inner=3072, vocabulary=151_936
)
MODEL = MemoryModel(
    SHAPE, bytes_per_value=2, checkpointing=True, dense_mask=False, chunk_tokens=1024, pending_bytes=8 * 10**9
)


def plan(max_row_tokens: int, gigabytes: float, trees_per_row: int | None = None) -> int:
    return plan_row_tokens(MODEL, max_row_tokens, 4000, 8, 500, trees_per_row, int(gigabytes * GB))


def test_a_budget_that_fits_is_left_alone():
    assert plan(50_000, 80) == 50_000


def test_a_budget_that_does_not_fit_is_shrunk_and_the_knob_named(caplog):
    tokens = plan(500_000, 24)
    assert 4500 < tokens < 500_000
    usable = USABLE * 24 * GB
    assert MODEL.peak_bytes(tokens, 4000, 8, 500) <= usable < MODEL.peak_bytes(tokens + 2, 4000, 8, 500)
    assert "rl.shared.max_row_tokens" in caplog.text


def test_a_row_never_counts_as_longer_than_the_groups_that_it_holds():
    assert plan(10**9, 24, trees_per_row=1) == 10**9  # 4,000 + 8 x 500 tokens at most


def test_memory_for_not_even_one_answer_is_refused_with_the_knobs():
    with pytest.raises(ConfigError, match="max_input_tokens") as raised:
        plan(50_000, 8)
    assert "8.0 GB are free" in str(raised.value)


def test_what_makes_a_row_larger_makes_its_prediction_larger():
    def changed(**changes) -> int:
        return MemoryModel(**(vars(MODEL) | changes)).row_bytes(30_000, 4000)

    assert changed(checkpointing=False) > changed() > changed(offload=True)
    assert changed(bytes_per_value=4) > changed()
    assert changed(sequence_parallel=4) < changed()
    assert changed(dense_mask=True) > changed()
    assert MODEL.row_bytes(60_000, 4000) > 1.8 * (MODEL.row_bytes(30_000, 4000) - MODEL.row_bytes(0, 4000))


def test_the_shape_of_a_folder_comes_from_its_headers(tmp_path):
    folder = write_model_folder(tmp_path, "qwen3_moe")
    shape = ModelShape.of_folder(folder)
    policy = make_policy(folder)
    assert shape.parameters == sum(tensor.numel() for _, tensor in policy.named_tensors())
    assert (shape.layers, shape.hidden, shape.attention, shape.key_value) == (2, 32, 32, 16)
    assert shape.inner == 2 * 16  # experts per token x their size


def test_an_expert_s_size_is_the_mlp_s_where_the_config_names_no_other():
    config = Qwen3MoeConfig(num_experts_per_tok=3, moe_intermediate_size=100)
    assert ModelShape.of(config, 1).inner == 300


def test_free_memory_is_known_and_a_container_s_limit_counts(tmp_path):
    assert 0 < available_bytes(torch.device("cpu")) < 2**50
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert _control_group_bytes(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert _control_group_bytes(tmp_path) is None
    assert _control_group_bytes(tmp_path / "absent") is None


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure_and_predict(folder: Path, compute_dtype: str, checkpointing: bool) -> tuple[int, int]:
    """Peak bytes of two steps (the moments are there from the second on) on one row of 1,056 tokens, and the plan's."""
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=704, max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    groups = random_groups(1, 4, 800, (64, 64))
    (row,) = pack_groups(groups, 10_000)
    batch = Batch(groups)
    weight_BT, tokens = turn_weights(batch, "token")
    policy = make_policy(folder, compute_dtype=compute_dtype, activation_checkpointing=checkpointing)
    shape = ModelShape.of_folder(folder)
    size = 4 if compute_dtype == "float32" else 2
    model = MemoryModel(shape, size, checkpointing, True, 1024, 8 * shape.parameters)
    weights = LossWeights(weight_BT, batch.group_ids_B, tokens, 1, "group")
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(2):
        policy.step([row], torch.linspace(-1, 1, 4, dtype=torch.float64), weights)
    return resident("VmHWM") - before, model.peak_bytes(row.num_tokens, 800, 4, 64)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is reset through /proc")
@pytest.mark.parametrize(("compute_dtype", "checkpointing"), [("float32", False), ("bfloat16", True)])
def test_the_prediction_is_within_a_third_of_the_measured_peak(tmp_path, compute_dtype, checkpointing):
    folder = write_model_folder(tmp_path)
    # A process of its own: memory that another test has freed would be taken again unseen
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        measured, predicted = pool.submit(measure_and_predict, folder, compute_dtype, checkpointing).result(300)
    assert 0.65 < predicted / measured < 1.35, (predicted, measured)
