"""The engine without a model, and the queue that all engines share."""

from __future__ import annotations

import asyncio

import pytest

from stages.common.errors import InputError
from stages.common.rollouts import Completion, GenerationRequest
from stages.engines.base import RolloutEngine
from stages.engines.requests import pack_batches
from stages.engines.scripted_engine import ByteTokenizer, ScriptedEngine


def _request(text: str = "hello", **options: object) -> GenerationRequest:
    values = {"max_tokens": 20, "temperature": 1.0} | options
    return GenerationRequest(prompt_ids=ByteTokenizer().encode_text(text), **values)  # type: ignore[arg-type]


def _echo(prompt: str, request: GenerationRequest, index: int) -> str:
    return f"{prompt}-{index}"


def test_it_is_a_rollout_engine() -> None:
    assert isinstance(ScriptedEngine(_echo), RolloutEngine)


def test_the_script_sees_prompt_and_index_and_its_answer_ends_with_the_end_token() -> None:
    engine = ScriptedEngine(_echo)
    (completions,) = engine.generate_all([_request("hi", n=2)])
    assert [engine.tokenizer.decode(completion.token_ids) for completion in completions] == ["hi-0", "hi-1"]
    assert all(completion.token_ids[-1] == engine.tokenizer.eos_id for completion in completions)
    assert all(len(completion.logprobs) == len(completion.token_ids) for completion in completions)
    assert {completion.finish_reason for completion in completions} == {"stop"}


def test_an_answer_over_max_tokens_is_cut() -> None:
    (completion,) = ScriptedEngine(_echo).generate_all([_request("hello", max_tokens=4)])[0]
    assert completion.token_ids == tuple(b"hell")
    assert completion.finish_reason == "length"


def test_an_answer_of_max_tokens_without_its_end_token_is_cut() -> None:
    (completion,) = ScriptedEngine(_echo).generate_all([_request("hello", max_tokens=7)])[0]
    assert completion.finish_reason == "length"


def test_the_earliest_stop_string_ends_the_answer() -> None:
    engine = ScriptedEngine(lambda *_: "one two three")
    (completion,) = engine.generate_all([_request(stop=("three", "two"))])[0]
    assert completion.token_ids == tuple(b"one two")
    assert completion.finish_reason == "stop"


def test_coroutines_that_wait_at_the_same_time_share_a_call() -> None:
    engine = ScriptedEngine(_echo)

    async def trajectory(name: str) -> list[str]:
        texts = []
        for turn in range(3):
            (completion,) = await engine.generate(_request(f"{name}{turn}"))
            texts.append(engine.tokenizer.decode(completion.token_ids))
        return texts

    async def all_of_them() -> list[list[str]]:
        return await asyncio.gather(*(trajectory(name) for name in "abcde"))

    results = asyncio.run(all_of_them())
    assert results[1] == ["b0-0", "b1-0", "b2-0"]
    assert engine.calls == 3
    assert len(engine.requests) == 15


def test_a_coroutine_that_asks_a_little_later_still_shares_the_call() -> None:
    engine = ScriptedEngine(_echo)

    async def late() -> None:
        await asyncio.sleep(0)
        await engine.generate(_request("late"))

    async def both() -> None:
        await asyncio.gather(engine.generate(_request("early")), late())

    asyncio.run(both())
    assert engine.calls == 1


def test_an_error_of_the_batch_reaches_everyone_who_waits() -> None:
    def fail(prompt: str, request: GenerationRequest, index: int) -> str:
        raise ZeroDivisionError(prompt)

    engine = ScriptedEngine(fail)

    async def two() -> list[object]:
        return await asyncio.gather(*(engine.generate(_request()) for _ in range(2)), return_exceptions=True)

    assert [type(result) for result in asyncio.run(two())] == [ZeroDivisionError] * 2


def test_a_cancelled_request_is_not_generated() -> None:
    engine = ScriptedEngine(_echo)

    async def cancel_one() -> list[Completion]:
        cancelled = asyncio.create_task(engine.generate(_request("cancelled")))
        kept = asyncio.create_task(engine.generate(_request("kept")))
        await asyncio.sleep(0)
        cancelled.cancel()
        return await kept

    asyncio.run(cancel_one())
    assert [engine.tokenizer.decode(request.prompt_ids) for request in engine.requests] == ["kept"]


def test_a_new_event_loop_is_not_held_up_by_a_dead_one() -> None:
    engine = ScriptedEngine(_echo)

    async def abandon() -> None:
        task = asyncio.create_task(engine.generate(_request("abandoned")))
        await asyncio.sleep(0)
        task.cancel()

    async def ask() -> list[Completion]:
        return await engine.generate(_request("again"))

    asyncio.run(abandon())
    (completion,) = asyncio.run(ask())
    assert engine.tokenizer.decode(completion.token_ids) == "again-0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 96}, r"prompt of 5 tokens plus max_tokens 96 is 101, over the model's 100"),
        ({"max_tokens": 0}, "at least 1"),
        ({"n": 0}, "at least 1"),
        ({"temperature": -0.1}, "temperature = -0.1"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
    ],
)
def test_a_request_that_cannot_be_generated_is_refused_before_any_work(options: dict[str, float], message: str) -> None:
    engine = ScriptedEngine(_echo, max_model_tokens=100)
    with pytest.raises(InputError, match=message):
        engine.generate_all([_request(), _request(**options)])
    assert engine.calls == 0


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="empty prompt"):
        ScriptedEngine(_echo).generate_all([_request("")])


def test_weights_are_counted_and_sleep_must_end_before_generation() -> None:
    engine = ScriptedEngine(_echo)
    engine.load_weights([])
    assert engine.loads == 1
    engine.sleep()
    with pytest.raises(AssertionError, match="wake_up"):
        engine.generate_all([_request()])
    engine.wake_up()
    engine.generate_all([_request()])
    engine.close()
    with pytest.raises(AssertionError, match="close"):
        engine.generate_all([_request()])


def test_the_byte_tokenizer_reads_back_what_it_wrote() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode_text("naïve – 5 €")) == "naïve – 5 €"
    chat = tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "hi"}]))
    assert chat == "<user>\nhi\n<assistant>\n"


def test_groups_are_alone_and_singles_are_packed_by_length() -> None:
    lengths = [10, 50, 10, 30, 20]
    requests = [_request("x" * length, max_tokens=10, n=2 if length == 30 else 1) for length in lengths]
    # Sorted: 50, 20, 10, 10. With 50 + 10 columns two rows fit into 120; then 10 + 10 columns, two rows.
    assert pack_batches(requests, 120) == [[3], [1, 4], [0, 2]]
    assert pack_batches(requests, 1) == [[3], [1], [4], [0], [2]]
    assert pack_batches(requests, 10_000, batch_groups=True) == [[1, 3, 4, 0, 2]]
    assert pack_batches([], 100) == []
