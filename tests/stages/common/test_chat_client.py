"""The chat client over real HTTP: cache, retries, deadlines, budgets, and every way in which an endpoint can misbehave."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path

import pytest

from stages.common.chat import ChatFailedError, ChatReply, EndpointError, Usage
from stages.common.chat_budget import Budget
from stages.common.chat_cache import ChatCache, call_key
from stages.common.chat_client import Endpoint, OpenAIChat, RetryPolicy
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply

KEY = "secret-4711-key"
FAST = RetryPolicy(attempts=3, first_wait_seconds=0.001, longest_wait_seconds=0.05)
HELLO = [{"role": "user", "content": "Say hello."}]


def client(server: ScriptedChatServer, folder: Path, **options) -> OpenAIChat:
    endpoint = Endpoint(server.base_url, "m", options.pop("timeout_seconds", 5.0), options.pop("api_key", None))
    options.setdefault("retry", FAST)
    return OpenAIChat(endpoint, ChatCache(folder), options.pop("budget", Budget()), **options)


def ask(chat: OpenAIChat, *calls: dict) -> list[ChatReply | ChatFailedError]:
    """All calls at once; a failed call gives its error."""

    async def run():
        async with chat:
            return await asyncio.gather(
                *(
                    chat.complete(
                        call.get("messages", HELLO),
                        max_tokens=call.get("max_tokens", 20),
                        temperature=call.get("temperature", 0.0),
                        seed=call.get("seed", 1),
                        response_schema=call.get("response_schema"),
                    )
                    for call in calls or ({},)
                ),
                return_exceptions=True,
            )

    results = asyncio.run(run())
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ChatFailedError):
            raise result
    return results


def reason_of(server: ScriptedChatServer, folder: Path, **options) -> str:
    (error,) = ask(client(server, folder, **options))
    assert isinstance(error, ChatFailedError)
    return error.reason


def test_a_reply_has_its_text_reason_and_usage(tmp_path):
    with ScriptedChatServer(["Hello there."]) as server:
        (reply,) = ask(client(server, tmp_path, api_key=KEY))
    assert reply == ChatReply("Hello there.", "stop", Usage(2, 2), cached=False)
    (request,) = server.requests
    assert request == {"model": "m", "messages": HELLO, "max_tokens": 20, "temperature": 0.0, "seed": 1}
    assert server.authorizations == [f"Bearer {KEY}"]


def test_the_scripted_server_speaks_what_the_official_client_understands():
    from openai import InternalServerError, OpenAI

    with ScriptedChatServer(["Hello there.", ScriptedReply(status=500)]) as server:
        official = OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0)
        done = official.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
        assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("Hello there.", "stop")
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (2, 2)
        with pytest.raises(InternalServerError):
            official.chat.completions.create(model="m", messages=HELLO)


def test_no_key_no_header(tmp_path):
    with ScriptedChatServer(["x"]) as server:
        ask(client(server, tmp_path))
    assert server.authorizations == [None]


def test_an_equal_call_is_answered_from_disk(tmp_path):
    with ScriptedChatServer(["first", "second", "third"]) as server:
        ask(client(server, tmp_path))
        (again,) = ask(client(server, tmp_path))
        (other,) = ask(client(server, tmp_path), {"seed": 2})
    assert (again.text, again.cached) == ("first", True)
    assert other.text == "second"
    assert len(server.requests) == 2


def test_equal_calls_at_the_same_time_are_made_once(tmp_path):
    with ScriptedChatServer(["one", "two"]) as server:
        replies = ask(client(server, tmp_path), {}, {}, {})
    assert [reply.text for reply in replies] == ["one"] * 3
    assert len(server.requests) == 1


def test_everything_that_decides_a_reply_is_in_the_key():
    usual = {"max_tokens": 1, "temperature": 0.0, "seed": 0, "response_schema": None}
    keys = {
        call_key(url, model, messages, **{**usual, **change})
        for url, model, messages, change in [
            ("http://a/v1", "m", HELLO, {}),
            ("http://a/v1/", "m", HELLO, {"temperature": 0}),  # the same call
            ("http://b/v1", "m", HELLO, {}),
            ("http://a/v1", "n", HELLO, {}),
            ("http://a/v1", "m", [{"role": "user", "content": "Say"}], {}),
            ("http://a/v1", "m", [{"role": "system", "content": "Say hello."}], {}),
            ("http://a/v1", "m", HELLO, {"max_tokens": 2}),
            ("http://a/v1", "m", HELLO, {"temperature": 0.5}),
            ("http://a/v1", "m", HELLO, {"seed": 3}),
            ("http://a/v1", "m", HELLO, {"response_schema": {"type": "object"}}),
        ]
    }
    assert len(keys) == 9


def test_a_damaged_cache_file_is_asked_again_and_mended(tmp_path):
    with ScriptedChatServer(["good"]) as server:
        ask(client(server, tmp_path))
        (file,) = tmp_path.rglob("*.json")
        whole = file.read_text()
        for damage in ("", whole[: len(whole) // 2], '{"key": "other"}', "[]", "\x00"):
            file.write_text(damage)
            (reply,) = ask(client(server, tmp_path))
            assert (reply.text, reply.cached) == ("good", False)
        assert file.read_text() == whole
    assert not list(tmp_path.rglob("*.partial"))


def test_threads_may_write_the_same_reply_at_once(tmp_path):
    cache, reply = ChatCache(tmp_path), ChatReply("x" * 100_000, "stop", Usage(1, 1))
    threads = [threading.Thread(target=cache.put, args=("ab" * 32, reply)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ChatCache(tmp_path).get("ab" * 32).text == reply.text
    assert len(list(tmp_path.rglob("*"))) == 2  # the folder and one file


@pytest.mark.parametrize("status", [429, 500, 502, 503, 408])
def test_passing_errors_are_asked_again(tmp_path, status):
    with ScriptedChatServer([ScriptedReply(status=status), ScriptedReply(status=status), "at last"]) as server:
        chat = client(server, tmp_path)
        (reply,) = ask(chat)
    assert reply.text == "at last"
    assert (chat.ledger.calls, chat.ledger.retries) == (1, 2)


@pytest.mark.parametrize(("status", "reason"), [(429, "rate_limited"), (503, "server_error")])
def test_retries_end(tmp_path, status, reason):
    with ScriptedChatServer([ScriptedReply(status=status)]) as server:
        assert reason_of(server, tmp_path) == reason
        assert len(server.requests) == FAST.attempts


def test_retry_after_is_waited_for_and_a_long_one_ends_the_call(tmp_path):
    soon = ScriptedReply(status=429, headers={"Retry-After": "0.03"})
    with ScriptedChatServer([soon, "now"]) as server:
        chat = client(server, tmp_path)
        ask(chat)
        assert chat.ledger.seconds[0] >= 0.03
    with ScriptedChatServer([ScriptedReply(status=429, headers={"Retry-After": "3600"}), "never"]) as server:
        assert reason_of(server, tmp_path) == "rate_limited"
        assert len(server.requests) == 1
    with ScriptedChatServer(
        [ScriptedReply(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), "x"]
    ) as server:
        (reply,) = ask(client(server, tmp_path))
        assert reply.text == "x"


@pytest.mark.parametrize("slow", [ScriptedReply("x", delay_seconds=30), ScriptedReply("x" * 400, drip_seconds=0.05)])
def test_silence_and_a_drip_of_bytes_are_timeouts(tmp_path, slow):
    with ScriptedChatServer([slow]) as server:
        retry = RetryPolicy(attempts=2, first_wait_seconds=0.001)
        assert reason_of(server, tmp_path, timeout_seconds=0.1, retry=retry) == "timeout"
        assert len(server.requests) == 2


def test_the_whole_call_has_a_deadline_too(tmp_path):
    with ScriptedChatServer([ScriptedReply(status=500)]) as server:
        retry = RetryPolicy(attempts=1000, first_wait_seconds=0.02, longest_wait_seconds=0.02)
        assert reason_of(server, tmp_path, retry=retry, total_seconds=0.15) == "timeout"


def test_nobody_there_and_broken_connections_are_unreachable(tmp_path):
    with ScriptedChatServer([ScriptedReply("never whole", broken=True)]) as server:
        assert reason_of(server, tmp_path) == "unreachable"
    endpoint = Endpoint("http://127.0.0.1:1/v1", "m", 5.0)
    (error,) = ask(OpenAIChat(endpoint, ChatCache(tmp_path), Budget(), retry=FAST))
    assert error.reason == "unreachable"


DEEP = b'{"choices":' + b"[" * 100_000
GARBAGE = {
    "no JSON": b"<html>Bad gateway</html>",
    "empty": b"",
    "no bytes of text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"17",
    "null": b"null",
    "no choices": b'{"choices": []}',
    "choices is text": b'{"choices": "x"}',
    "message is text": b'{"choices": [{"message": "x"}]}',
    "content is a number": b'{"choices": [{"message": {"content": 5}}]}',
    "content is missing": b'{"choices": [{"message": {}}]}',
    "NaN": b'{"choices": [{"message": {"content": NaN}}]}',
    "cut off": b'{"choices": [{"message": {"content": "x',
    "a huge integer": b'{"choices": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_malformed(tmp_path, body):
    with ScriptedChatServer([ScriptedReply(body=body)]) as server:
        assert reason_of(server, tmp_path) == "malformed"
    assert not list(tmp_path.rglob("*.json"))  # failures are not kept


@pytest.mark.parametrize("body", [DEEP, b'{"a":' * 50_000, b" " * (5 << 20)])
def test_deep_and_large_replies_are_oversized(tmp_path, body):
    with ScriptedChatServer([ScriptedReply(body=body)]) as server:
        assert reason_of(server, tmp_path) == "oversized"


def test_a_compressed_reply_is_not_unpacked(tmp_path):
    with ScriptedChatServer([ScriptedReply("x", headers={"Content-Encoding": "gzip"})]) as server:
        assert reason_of(server, tmp_path) == "malformed"


def test_a_content_filter_and_a_bad_request_refuse_one_call(tmp_path):
    with ScriptedChatServer([ScriptedReply(finish_reason="content_filter")]) as server:
        assert reason_of(server, tmp_path) == "refused"
    with ScriptedChatServer([ScriptedReply(status=400, body=b"the prompt is too long")]) as server:
        assert reason_of(server, tmp_path) == "refused"
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_the_user_must_mend_is_said_at_once_and_without_the_key(tmp_path, status, caplog):
    body = f"Incorrect API key provided: {KEY}".encode()
    headers = {"Location": "http://127.0.0.1:1/elsewhere"}
    with (
        caplog.at_level(logging.DEBUG),
        ScriptedChatServer([ScriptedReply(status=status, body=body, headers=headers)]) as server,
    ):
        with pytest.raises(EndpointError) as caught:
            ask(client(server, tmp_path, api_key=KEY))
        assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text


def test_an_echoed_key_reaches_neither_reply_nor_cache(tmp_path):
    escaped = json.dumps(KEY).replace("4711", "\\u0034711")
    body = f'{{"choices": [{{"message": {{"content": {escaped}}}, "finish_reason": "stop"}}]}}'.encode()
    with ScriptedChatServer([ScriptedReply(body=body)]) as server:
        chat = client(server, tmp_path, api_key=KEY)
        (reply,) = ask(chat)
    assert reply.text == "[key]"
    assert all(KEY not in file.read_text() for file in tmp_path.rglob("*.json"))
    assert KEY not in repr(chat._endpoint)


def test_lone_surrogates_and_control_characters_are_taken_out(tmp_path):
    body = b'{"choices": [{"message": {"content": "a\\ud800b\\u0000c\\u202ed\\r\\ne"}}]}'
    with ScriptedChatServer([ScriptedReply(body=body)]) as server:
        (reply,) = ask(client(server, tmp_path))
        (again,) = ask(client(server, tmp_path))
    assert reply.text == again.text == "a?bcd\ne"
    assert again.cached


def test_content_in_parts_is_joined(tmp_path):
    body = b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}, 5]}}]}'
    with ScriptedChatServer([ScriptedReply(body=body)]) as server:
        (reply,) = ask(client(server, tmp_path))
    assert reply.text == "ab"


def test_a_cut_off_reply_says_so(tmp_path):
    with ScriptedChatServer([ScriptedReply("The answer is", finish_reason="length")]) as server:
        (reply,) = ask(client(server, tmp_path))
        (again,) = ask(client(server, tmp_path))
    assert reply.finish_reason == again.finish_reason == "length"


def test_a_parameter_that_the_server_does_not_know_is_left_out_from_then_on(tmp_path):
    def old_server(request):
        for parameter in ("response_format", "max_tokens", "seed"):
            if parameter in request:
                return ScriptedReply(status=400, body=f"unsupported parameter: '{parameter}'".encode())
        return "fine"

    with ScriptedChatServer(old_server) as server:
        chat = client(server, tmp_path)
        replies = ask(chat, {"response_schema": {"type": "object"}}) + ask(chat, {"seed": 2})
    assert [reply.text for reply in replies] == ["fine", "fine"]
    assert len(server.requests) == 5
    assert server.requests[-1] == {"model": "m", "messages": HELLO, "max_completion_tokens": 20, "temperature": 0.0}


def test_a_schema_is_sent_as_structured_output(tmp_path):
    with ScriptedChatServer(["{}"]) as server:
        ask(client(server, tmp_path), {"response_schema": {"type": "object"}})
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_no_more_calls_than_allowed_run_at_once(tmp_path):
    lock, running, peak = threading.Lock(), 0, 0
    barrier = threading.Barrier(3)

    def script(request):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        barrier.wait(10)  # three at a time, neither more nor fewer
        with lock:
            running -= 1
        return "x"

    with ScriptedChatServer(script) as server:
        chat = client(server, tmp_path, concurrent_calls=3)
        replies = ask(chat, *({"seed": seed} for seed in range(9)))
    assert len(replies) == 9
    assert peak == 3


# --- budgets


def test_a_call_that_may_exceed_the_tokens_is_not_made(tmp_path):
    # 10 bytes of prompt: ceil(10 / 3) + 8 = 12 tokens at most; 20 of reply: 32 are set aside.
    with ScriptedChatServer(["one two three"]) as server:
        assert reason_of(server, tmp_path, budget=Budget(limit_tokens=31)) == "budget"
        assert server.requests == []
        budget = Budget(limit_tokens=32)
        (reply,) = ask(client(server, tmp_path, budget=budget))
        assert reply.text == "one two three"
        assert budget.tokens == 2 + 3


def test_a_failed_call_gives_back_what_was_set_aside(tmp_path):
    budget = Budget(limit_tokens=40)
    with ScriptedChatServer([ScriptedReply(body=b"garbage"), "fine"]) as server:
        chat = client(server, tmp_path, budget=budget)
        ask(chat)
        (reply,) = ask(chat)
    assert reply.text == "fine"


def test_money_is_counted_by_the_price_list():
    budget = Budget(limit_usd=0.01, usd_per_million_input=2.0, usd_per_million_output=10.0)
    budget.reserve("a", 1000, 500)  # 0.002 + 0.005
    with pytest.raises(ChatFailedError, match="budget_usd"):
        budget.reserve("b", 1000, 500)
    budget.settle("a", Usage(1000, 100))  # 0.003
    assert budget.usd == pytest.approx(0.003)
    budget.reserve("b", 1000, 500)
    assert budget.exhausted  # it was refused once


def test_a_cached_call_counts_once_however_often_it_is_read(tmp_path):
    with ScriptedChatServer(["one two three"]) as server:
        first, second = Budget(limit_tokens=100), Budget(limit_tokens=100)
        ask(client(server, tmp_path, budget=first))
        for _ in range(3):
            ask(client(server, tmp_path, budget=second))
    assert first.tokens == second.tokens == 5


def test_the_account_outlives_a_kill_even_with_a_torn_line(tmp_path):
    path = tmp_path / "account.jsonl"
    Budget(path=path).settle("a", Usage(3, 4))
    with path.open("a") as file:
        file.write('["b", 5')
    again = Budget(path=path)
    assert again.tokens == 7
    again.settle("c", Usage(1, 1))
    again.settle("c", Usage(1, 1))
    assert Budget(path=path).tokens == 9


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5},
        {"prompt_tokens": 10**12},
        {"prompt_tokens": "7"},
        {"completion_tokens": 1e9},
        {"prompt_tokens": True},
    ],
)
def test_an_impossible_token_count_is_replaced_by_our_estimate(tmp_path, usage):
    with ScriptedChatServer([ScriptedReply("abc", usage=usage)]) as server:
        (reply,) = ask(client(server, tmp_path))
    assert reply.usage == Usage(12, 2)
