"""The transformers engine on a CUDA device: the same facts as on CPU, and that sleep frees the memory."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.base_model.random_model import make_tokenizer
from stages.base_model.saving import save_model
from stages.common.rollouts import GenerationRequest
from stages.engines.transformers_engine import TransformersEngine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

PROMPTS = [(5, 9, 300, 41), (7, 11), (1000, 3, 3, 8, 900, 77, 64), (12,)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2_000, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llama")
    save_model(LlamaForCausalLM(config), make_tokenizer(), path)
    return path


def _greedy(prompt: tuple[int, ...]) -> GenerationRequest:
    return GenerationRequest(prompt_ids=prompt, max_tokens=12, temperature=0.0)


def test_greedy_equals_transformers_generate(folder: Path) -> None:
    engine = TransformersEngine(folder, compute_dtype="float32")
    for prompt, (completion,) in zip(PROMPTS, engine.generate_all([_greedy(p) for p in PROMPTS]), strict=True):
        ids = torch.tensor([prompt], device="cuda")
        theirs = engine._model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert list(completion.token_ids) == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_a_group_is_the_same_bits_whatever_else_is_asked(folder: Path, compute_dtype: str) -> None:
    engine = TransformersEngine(folder, compute_dtype=compute_dtype)
    group = GenerationRequest(prompt_ids=PROMPTS[2], n=4, max_tokens=20, temperature=0.8, top_p=0.9, seed=3)
    alone = engine.generate_all([group])[0]
    assert len({completion.token_ids for completion in alone}) > 1
    assert engine.generate_all([_greedy(PROMPTS[0]), group])[1] == alone


def test_sleep_frees_the_weights_and_wake_up_brings_them_back(folder: Path) -> None:
    gc.collect()  # engines of earlier tests
    held_before = torch.cuda.memory_allocated()
    engine = TransformersEngine(folder, compute_dtype="float32")
    answer = engine.generate_all([_greedy(PROMPTS[0])])
    held = torch.cuda.memory_allocated() - held_before
    assert held > 0
    engine.sleep()
    assert torch.cuda.memory_allocated() - held_before < held / 10
    engine.wake_up()
    assert engine.generate_all([_greedy(PROMPTS[0])]) == answer
