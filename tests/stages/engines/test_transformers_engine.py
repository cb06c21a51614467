"""The engine against transformers itself, on tiny random models in float32."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from stages.base_model.random_model import make_tokenizer, write_random_model
from stages.base_model.saving import save_model
from stages.common.errors import InputError
from stages.common.rollouts import GenerationRequest
from stages.engines.base import RolloutEngine
from stages.engines.transformers_engine import TransformersEngine

PROMPTS = [(5, 9, 300, 41), (7, 11), (1000, 3, 3, 8, 900, 77, 64), (12,)]


def _llama(seed: int = 0, tie: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2_000,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,  # far from uniform, so that greedy choices are no ties
        tie_word_embeddings=tie,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_model(_llama(), make_tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def moe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe")
    write_random_model(folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def engine(llama_dir: Path) -> TransformersEngine:
    return TransformersEngine(llama_dir, compute_dtype="float32")


def _greedy(prompt: tuple[int, ...], max_tokens: int = 12, **options: object) -> GenerationRequest:
    return GenerationRequest(prompt_ids=prompt, max_tokens=max_tokens, temperature=0.0, **options)  # type: ignore[arg-type]


def _sampled(prompt: tuple[int, ...], n: int, seed: int, max_tokens: int = 10) -> GenerationRequest:
    return GenerationRequest(prompt_ids=prompt, n=n, max_tokens=max_tokens, temperature=0.8, top_p=0.9, seed=seed)


@pytest.mark.parametrize("folder", ["llama_dir", "moe_dir"])
def test_greedy_equals_transformers_generate(folder: str, request: pytest.FixtureRequest) -> None:
    engine = TransformersEngine(request.getfixturevalue(folder), compute_dtype="float32")
    ours = engine.generate_all([_greedy(prompt) for prompt in PROMPTS])
    for prompt, completions in zip(PROMPTS, ours, strict=True):
        theirs = engine._model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )
        assert list(completions[0].token_ids) == theirs[0, len(prompt) :].tolist()


def test_batched_single_requests_equal_those_asked_one_by_one(engine: TransformersEngine) -> None:
    together = engine.generate_all([_greedy(prompt) for prompt in PROMPTS])
    alone = [engine.generate_all([_greedy(prompt)])[0] for prompt in PROMPTS]
    assert [c[0].token_ids for c in together] == [c[0].token_ids for c in alone]
    for left, right in zip(together, alone, strict=True):
        assert left[0].logprobs == pytest.approx(right[0].logprobs, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_those_of_temperature_one_over_the_full_vocabulary(
    engine: TransformersEngine, temperature: float
) -> None:
    requests = [
        GenerationRequest(prompt_ids=prompt, n=3, max_tokens=9, temperature=temperature, top_p=0.8, seed=4)
        for prompt in PROMPTS[:2]
    ]
    for request, completions in zip(requests, engine.generate_all(requests), strict=True):
        for completion in completions:
            ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
            with torch.no_grad():
                logprobs = engine._model(ids).logits[0].log_softmax(dim=-1)
            start = len(request.prompt_ids) - 1
            expected = [logprobs[start + t, token].item() for t, token in enumerate(completion.token_ids)]
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_group_is_the_same_bits_whatever_else_is_asked(engine: TransformersEngine) -> None:
    group = _sampled(PROMPTS[2], n=4, seed=11)
    alone = engine.generate_all([group])[0]
    others = [_sampled(PROMPTS[0], n=2, seed=1), group, _greedy(PROMPTS[3]), _sampled(PROMPTS[1], n=1, seed=5)]
    assert engine.generate_all(others)[1] == alone
    assert engine.generate_all([group])[0] == alone


def test_the_rows_of_a_group_differ_and_row_zero_is_the_single_answer(engine: TransformersEngine) -> None:
    group = engine.generate_all([_sampled(PROMPTS[0], n=4, seed=7)])[0]
    assert len({completion.token_ids for completion in group}) == 4
    single = engine.generate_all([_sampled(PROMPTS[0], n=1, seed=7)])[0]
    assert single[0].token_ids == group[0].token_ids


def test_batched_groups_give_the_answers_of_groups_alone(llama_dir: Path, engine: TransformersEngine) -> None:
    requests = [_sampled(prompt, n=3, seed=index) for index, prompt in enumerate(PROMPTS)]
    batched = TransformersEngine(llama_dir, compute_dtype="float32", batch_groups=True).generate_all(requests)
    for left, right in zip(batched, engine.generate_all(requests), strict=True):
        assert [c.token_ids for c in left] == [c.token_ids for c in right]


def test_a_small_token_budget_changes_nothing_but_the_batches(llama_dir: Path, engine: TransformersEngine) -> None:
    requests = [_greedy(prompt, max_tokens=3 + index) for index, prompt in enumerate(PROMPTS)]
    small = TransformersEngine(llama_dir, compute_dtype="float32", max_batch_tokens=1)
    for left, right in zip(small.generate_all(requests), engine.generate_all(requests), strict=True):
        assert [c.token_ids for c in left] == [c.token_ids for c in right]


def test_any_of_several_end_tokens_ends_an_answer_and_is_part_of_it(llama_dir: Path) -> None:
    plain = TransformersEngine(llama_dir, compute_dtype="float32")
    longest = plain.generate_all([_greedy(PROMPTS[0])])[0][0]
    assert longest.finish_reason == "length"
    assert len(longest.token_ids) == 12
    end = longest.token_ids[4]
    model = _llama()
    model.generation_config.eos_token_id = [2, end]
    shared = TransformersEngine(llama_dir, model=model)
    # A second, unfinished request keeps the batch going after the first has ended.
    ended = shared.generate_all([_greedy(PROMPTS[0]), _greedy(PROMPTS[1])])[0][0]
    first = longest.token_ids.index(end)
    assert ended.token_ids == longest.token_ids[: first + 1]
    assert ended.logprobs == pytest.approx(longest.logprobs[: first + 1], abs=1e-4)
    assert ended.finish_reason == "stop"


def test_a_stop_string_ends_an_answer_where_it_is_complete(engine: TransformersEngine) -> None:
    whole = engine.generate_all([_greedy(PROMPTS[2])])[0][0]
    stop = engine.tokenizer.decode(whole.token_ids[3:5])
    assert stop
    stopped = engine.generate_all([_greedy(PROMPTS[2], stop=("never there", stop))])[0][0]
    assert stopped.finish_reason == "stop"
    assert whole.token_ids[: len(stopped.token_ids)] == stopped.token_ids
    assert stop in engine.tokenizer.decode(stopped.token_ids)
    assert stop not in engine.tokenizer.decode(stopped.token_ids[:-1])


def test_requests_of_waiting_coroutines_give_what_one_call_gives(engine: TransformersEngine) -> None:
    requests = [_greedy(prompt) for prompt in PROMPTS] + [_sampled(PROMPTS[0], n=3, seed=2)]

    async def ask_all() -> list[object]:
        return await asyncio.gather(*(engine.generate(request) for request in requests))

    assert asyncio.run(ask_all()) == engine.generate_all(requests)
    assert asyncio.run(ask_all()) == engine.generate_all(requests)  # a second event loop


def test_a_request_over_the_window_is_refused_with_the_numbers(llama_dir: Path) -> None:
    small = TransformersEngine(llama_dir, compute_dtype="float32", max_model_tokens=16)
    small.generate_all([_greedy(PROMPTS[0], max_tokens=12)])
    with pytest.raises(InputError, match=r"prompt of 4 tokens plus max_tokens 13 is 17, over the model's 16"):
        small.generate_all([_greedy(PROMPTS[0], max_tokens=13)])
    with pytest.raises(InputError, match="over the model's 16"):
        asyncio.run(small.generate(_greedy(PROMPTS[0], max_tokens=13)))


def test_the_window_defaults_to_the_models_own(engine: TransformersEngine) -> None:
    assert engine.max_model_tokens == 256


def test_new_weights_change_the_answer_and_the_old_ones_bring_it_back(llama_dir: Path) -> None:
    engine = TransformersEngine(llama_dir, compute_dtype="float32")
    before = engine.generate_all([_greedy(PROMPTS[0])])
    engine.load_weights(_llama(seed=1).named_parameters())
    after = engine.generate_all([_greedy(PROMPTS[0])])
    assert after != before
    engine.load_weights(_llama(seed=0).state_dict().items())
    assert engine.generate_all([_greedy(PROMPTS[0])]) == before


def test_weights_are_cast_to_the_engines_type(llama_dir: Path) -> None:
    engine = TransformersEngine(llama_dir, compute_dtype="bfloat16")
    other = _llama(seed=1)
    engine.load_weights(other.named_parameters())
    loaded = dict(engine._model.named_parameters())["model.norm.weight"]
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded, other.model.norm.weight.bfloat16())


def test_tied_weights_may_be_given_once(tmp_path: Path) -> None:
    save_model(_llama(tie=True), make_tokenizer(), tmp_path)
    engine = TransformersEngine(tmp_path, compute_dtype="float32")
    names = [name for name, _ in _llama(tie=True).named_parameters()]
    assert "lm_head.weight" not in names
    engine.load_weights(_llama(seed=1, tie=True).named_parameters())


def test_weights_that_do_not_fit_are_refused(llama_dir: Path) -> None:
    engine = TransformersEngine(llama_dir, compute_dtype="float32")
    with pytest.raises(InputError, match="unknown"):
        engine.load_weights([("model.nothing", torch.zeros(2))])
    with pytest.raises(InputError, match=r"model.norm.weight \(3,\) do not fit .*\(48,\)"):
        engine.load_weights([("model.norm.weight", torch.zeros(3))])
    with pytest.raises(InputError, match="lack 29 parameters"):
        engine.load_weights([("model.norm.weight", torch.ones(48))])


def test_a_shared_model_can_be_trained_on_after_generation(llama_dir: Path) -> None:
    model = _llama()
    model.train()
    engine = TransformersEngine(llama_dir, model=model)
    before = engine.generate_all([_greedy(PROMPTS[0])])
    assert model.training
    model(torch.tensor([PROMPTS[0]])).logits.sum().backward()
    with torch.no_grad():
        model.lm_head.weight.neg_()
    assert engine.generate_all([_greedy(PROMPTS[0])]) != before  # the same weights, not a copy
    engine.load_weights(model.named_parameters())  # onto themselves: nothing to do


def test_sleep_and_wake_up_leave_the_answers_as_they_are(llama_dir: Path) -> None:
    engine = TransformersEngine(llama_dir, compute_dtype="float32")
    before = engine.generate_all([_greedy(PROMPTS[1])])
    engine.sleep()
    with pytest.raises(AssertionError, match="wake_up"):
        engine.generate_all([_greedy(PROMPTS[1])])
    engine.wake_up()
    assert engine.generate_all([_greedy(PROMPTS[1])]) == before
    engine.close()


def test_sliding_window_models_are_refused(tmp_path: Path) -> None:
    config = MistralConfig(
        vocab_size=2_000, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=8, eos_token_id=2,
    )  # fmt: skip
    save_model(MistralForCausalLM(config), make_tokenizer(), tmp_path)
    with pytest.raises(InputError, match="full attention"):
        TransformersEngine(tmp_path)


def test_a_folder_without_weights_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        (tmp_path / name).write_bytes((llama_dir / name).read_bytes())
    with pytest.raises(InputError, match="holds no model"):
        TransformersEngine(tmp_path)


def test_it_is_a_rollout_engine(engine: TransformersEngine) -> None:
    assert isinstance(engine, RolloutEngine)
