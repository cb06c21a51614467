"""VLLMEngine against transformers, with a real vLLM on CPU and tiny random models. Run by `make test-vllm`.

The ordinary environment has no vLLM (it does not go together with Prefect there), so these skip in `make test`.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

pytest.importorskip("vllm")

from stages.base_model.random_model import make_tokenizer
from stages.base_model.saving import save_model
from stages.common.errors import EnvironmentFailureError, InputError
from stages.common.rollouts import Completion, GenerationRequest
from stages.engines.base import RolloutEngine
from stages.engines.transformers_engine import TransformersEngine
from stages.engines.vllm_engine import VLLMEngine

SHAPE = {
    "vocab_size": 2_000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the smallest of vLLM's CPU kernels
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,  # far from uniform, so that greedy choices are no ties
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
PROMPTS = [(5, 9, 300, 41), (7, 11), (1000, 3, 3, 8, 900, 77, 64), (12,)]


def _write_model(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    models: dict[str, Callable[[], Any]] = {
        "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=False)),
        "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **EXPERTS)),
    }
    save_model(models[kind]().eval(), make_tokenizer(), folder)


@pytest.fixture(scope="module", params=["llama_tied", "qwen3", "qwen3_moe"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VLLMEngine, Any]]:
    """An engine, and the model that it serves, whose weights tests change together."""
    folder = tmp_path_factory.mktemp(request.param)
    _write_model(request.param, folder)
    engine = VLLMEngine(folder, compute_dtype="float32", max_model_tokens=512, timeout_seconds=240)
    yield engine, AutoModelForCausalLM.from_pretrained(folder).eval()
    engine.close()


def _greedy(prompt: tuple[int, ...], max_tokens: int = 12, **options: Any) -> GenerationRequest:
    return GenerationRequest(prompt_ids=prompt, max_tokens=max_tokens, temperature=0.0, **options)


def _sampled(prompt: tuple[int, ...], n: int, seed: int, **options: Any) -> GenerationRequest:
    wanted = {"max_tokens": 10, "temperature": 0.8, "top_p": 0.9} | options
    return GenerationRequest(prompt_ids=prompt, n=n, seed=seed, **wanted)


def _ids(answers: list[Completion]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


def _hf_greedy(model: Any, prompt: tuple[int, ...], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    return out[0, len(prompt) :].tolist()


def _assert_raw_logprobs(model: Any, prompt: tuple[int, ...], answer: Completion) -> None:
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*prompt, *answer.token_ids]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.distributions.Categorical(logits=logits_TV.double()).log_prob(torch.tensor(answer.token_ids))
    assert len(answer.logprobs) == len(answer.token_ids)
    assert torch.allclose(torch.tensor(answer.logprobs, dtype=torch.float64), expected, atol=1e-3, rtol=0)


def test_the_engine_keeps_the_protocol(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    assert isinstance(engine, RolloutEngine)
    assert engine.max_model_tokens == 512


def test_greedy_answers_equal_those_of_transformers(pair: tuple[VLLMEngine, Any]) -> None:
    engine, model = pair
    answers = engine.generate_all([_greedy(prompt) for prompt in PROMPTS])
    for prompt, [answer] in zip(PROMPTS, answers, strict=True):
        assert list(answer.token_ids) == _hf_greedy(model, prompt, 12)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.7), (0.0, 1.0)])
def test_logprobs_are_of_temperature_1_over_the_whole_vocabulary(
    pair: tuple[VLLMEngine, Any], temperature: float, top_p: float
) -> None:
    engine, model = pair
    request = _sampled(PROMPTS[2], n=3, seed=4, temperature=temperature, top_p=top_p)
    for answer in engine.generate_all([request])[0]:
        _assert_raw_logprobs(model, request.prompt_ids, answer)


def test_samples_of_a_group_differ_and_repeat(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    first = engine.generate_all([_sampled(PROMPTS[0], n=8, seed=1)])[0]
    assert len(set(_ids(first))) == 8
    together = engine.generate_all([_greedy(PROMPTS[1]), _sampled(PROMPTS[0], 8, 1), _sampled(PROMPTS[3], 2, 1)])
    assert _ids(together[1]) == _ids(first)
    assert not set(_ids(engine.generate_all([_sampled(PROMPTS[0], n=8, seed=2)])[0])) & set(_ids(first))


def test_new_weights_give_the_new_models_answers(pair: tuple[VLLMEngine, Any]) -> None:
    engine, model = pair
    long_prompt = tuple(range(5, 305))  # more than two blocks of the prefix cache
    before = engine.generate_all([_greedy(long_prompt)])[0][0]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    engine.sleep()
    engine.load_weights((name, parameter.detach()) for name, parameter in model.named_parameters())
    engine.wake_up()
    after = engine.generate_all([_greedy(long_prompt)])[0][0]
    # Keys and values of the old weights, left in the prefix cache, would show here.
    assert list(after.token_ids) == _hf_greedy(model, long_prompt, 12)
    _assert_raw_logprobs(model, long_prompt, after)
    assert after.token_ids != before.token_ids


def test_loading_twice_and_in_another_type_and_order_works(pair: tuple[VLLMEngine, Any]) -> None:
    engine, model = pair
    tensors = [(name, parameter.detach().double()) for name, parameter in model.named_parameters()]
    for _ in range(2):
        engine.load_weights(reversed(tensors))
    answer = engine.generate_all([_greedy(PROMPTS[0])])[0][0]
    assert list(answer.token_ids) == _hf_greedy(model, PROMPTS[0], 12)


def test_the_prefix_cache_is_used_and_forgotten_with_the_weights(pair: tuple[VLLMEngine, Any]) -> None:
    engine, model = pair
    scheduler = engine._backend._engine.engine_core.engine_core.scheduler
    request = _sampled(tuple(range(3, 303)), n=4, seed=1)

    def cached_tokens() -> int:
        tokens: list[int] = []
        real = scheduler.kv_cache_manager.get_computed_blocks
        scheduler.kv_cache_manager.get_computed_blocks = lambda r: (found := real(r), tokens.append(found[1]))[0]
        engine.generate_all([request])
        scheduler.kv_cache_manager.get_computed_blocks = real
        return sum(tokens)

    engine.load_weights((name, parameter.detach()) for name, parameter in model.named_parameters())
    of_the_group = cached_tokens()
    assert of_the_group == 3 * 256  # the first computes the prompt, three take its full blocks
    assert cached_tokens() == 4 * 256  # asked again: all take them
    engine.load_weights((name, parameter.detach()) for name, parameter in model.named_parameters())
    assert cached_tokens() == of_the_group


def test_missing_unknown_and_misshapen_weights_are_refused_and_the_engine_lives(pair: tuple[VLLMEngine, Any]) -> None:
    engine, model = pair
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    name = "model.layers.1.self_attn.q_proj.weight"
    with pytest.raises(InputError, match="lack 1 parameters"):
        engine.load_weights((n, t) for n, t in tensors.items() if n != "model.norm.weight")
    with pytest.raises(InputError, match="do not fit"):
        engine.load_weights({**tensors, "model.layers.9.self_attn.q_proj.weight": tensors[name]}.items())
    engine.load_weights(tensors.items())
    assert list(engine.generate_all([_greedy(PROMPTS[1])])[0][0].token_ids) == _hf_greedy(model, PROMPTS[1], 12)


def test_the_end_token_ends_an_answer_and_is_part_of_it(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    free = engine.generate_all([_greedy(PROMPTS[0])])[0][0]
    end = free.token_ids[3]
    kept = engine._backend._end_ids
    engine._backend._end_ids = [*kept, end]
    try:
        answer = engine.generate_all([_greedy(PROMPTS[0])])[0][0]
    finally:
        engine._backend._end_ids = kept
    assert answer.finish_reason == "stop"
    assert answer.token_ids == free.token_ids[: free.token_ids.index(end) + 1]
    assert len(answer.logprobs) == len(answer.token_ids)
    assert free.finish_reason == "length"


def test_stop_strings_end_where_transformers_ends(pair: tuple[VLLMEngine, Any], tmp_path: Path) -> None:
    engine, model = pair
    free = engine.generate_all([_greedy(PROMPTS[2])])[0][0]
    text = engine.tokenizer.decode(free.token_ids)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    reference = TransformersEngine(tmp_path, compute_dtype="float32", model=model, tokenizer=engine.tokenizer)
    request = _greedy(PROMPTS[2], stop=(stop,))
    [[ours]], [[theirs]] = engine.generate_all([request]), reference.generate_all([request])
    assert ours.finish_reason == theirs.finish_reason == "stop"
    assert ours.token_ids == theirs.token_ids
    assert stop in engine.tokenizer.decode(ours.token_ids)


def test_concurrent_coroutines_share_the_batch_without_a_barrier(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    steps: list[int] = []
    real = engine._backend._engine.step

    def counted() -> Any:
        steps.append(1)
        return real()

    async def trajectory(number: int) -> list[Completion]:
        prompt, answers = PROMPTS[number % 4], []
        for turn in range(3):  # each turn builds on the one before, as the memory agent's do
            tokens = 4 + number % 5
            [answer] = await engine.generate(_sampled(prompt, 1, seed=31 * number + turn, max_tokens=tokens))
            answers.append(answer)
            prompt = (*PROMPTS[number % 4], *answer.token_ids)
        return answers

    async def all_of_them() -> list[list[Completion]]:
        return list(await asyncio.gather(*(trajectory(number) for number in range(24))))

    engine._backend._engine.step = counted
    try:
        together = asyncio.run(all_of_them())
    finally:
        engine._backend._engine.step = real
    one_by_one = sum(len(answer.token_ids) for answers in together for answer in answers)
    assert len(steps) < one_by_one / 8  # 24 at once
    alone = asyncio.run(trajectory(5))
    assert _ids(alone) == _ids(together[5])


def test_more_prompts_than_one_step_computes(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    requests = [_sampled(tuple(range(3 + i, 203 + i)), 1, seed=i, max_tokens=4) for i in range(48)]
    together = engine.generate_all(requests)
    assert _ids(engine.generate_all(requests[17:18])[0]) == _ids(together[17])


def test_a_cancelled_request_leaves_the_batch(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.generate(_sampled(PROMPTS[0], 4, 1, max_tokens=120)), timeout=0.001)

    asyncio.run(impatient())
    assert len(engine.generate_all([_greedy(PROMPTS[1])])[0]) == 1
    engine.sleep()  # would refuse if the request were still running
    engine.wake_up()
    assert not engine._backend._engine.has_unfinished_requests()


def test_too_long_requests_are_refused_before_any_work(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    with pytest.raises(InputError, match="512 tokens"):
        engine.generate_all([_greedy(PROMPTS[0]), _greedy(tuple(range(5, 510)), max_tokens=12)])


def test_the_global_random_state_is_the_trainers(tmp_path: Path) -> None:
    _write_model("qwen3", tmp_path)
    random.seed(5)
    torch.manual_seed(5)
    python, torch_state = random.getstate(), torch.get_rng_state()
    engine = VLLMEngine(tmp_path, compute_dtype="float32", timeout_seconds=240)
    try:
        assert engine.max_model_tokens == SHAPE["max_position_embeddings"]  # the model's own limit
        assert random.getstate() == python
        assert torch.equal(torch.get_rng_state(), torch_state)
    finally:
        engine.close()


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[VLLMEngine]:
    """An engine that a test may break."""
    _write_model("qwen3", tmp_path)
    engine = VLLMEngine(tmp_path, compute_dtype="float32", max_model_tokens=128, timeout_seconds=240)
    yield engine
    engine.close()


def test_a_dead_engine_says_in_which_phase_it_died(own_engine: VLLMEngine) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    own_engine._backend._engine.engine_core.engine_core.model_executor.execute_model = broken
    for _ in range(2):  # and stays dead
        with pytest.raises(EnvironmentFailureError, match="died while generating: RuntimeError: an illegal memory"):
            own_engine.generate_all([_greedy(PROMPTS[0])])


def test_a_hanging_engine_is_given_up_in_bounded_time(own_engine: VLLMEngine) -> None:
    released = threading.Event()
    real = own_engine._backend._engine.step
    own_engine._backend._engine.step = lambda: (released.wait(60), real())[1]
    own_engine._thread.timeout_seconds = 0.5
    started = time.monotonic()
    with pytest.raises(EnvironmentFailureError, match=r"not come back for 0\.5 s while generating"):
        asyncio.run(own_engine.generate(_greedy(PROMPTS[0])))
    assert time.monotonic() - started < 30
    released.set()


def test_a_model_without_room_for_its_cache_names_the_knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    _write_model("qwen3", tmp_path)
    with pytest.raises(EnvironmentFailureError, match=r"train\.engine\.gpu_memory_utilization"):
        VLLMEngine(tmp_path, compute_dtype="float32", gpu_memory_utilization=0.999, timeout_seconds=240)


def test_a_folder_without_a_model_is_told_plainly(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_architecture", "architectures": ["Nobody"]}')
    with pytest.raises(InputError, match="vLLM refuses the model"):
        VLLMEngine(tmp_path, compute_dtype="float32", timeout_seconds=240)


def test_a_request_with_changed_length_changes_nothing_else(pair: tuple[VLLMEngine, Any]) -> None:
    engine, _ = pair
    request = _sampled(PROMPTS[2], n=2, seed=9)
    longer = engine.generate_all([replace(request, max_tokens=20)])[0]
    for short, long in zip(engine.generate_all([request])[0], longer, strict=True):
        assert long.token_ids[: len(short.token_ids)] == short.token_ids
