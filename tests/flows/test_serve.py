"""`longfuse serve` over HTTP with the official client and a scripted engine: answers, streams, cancelling, limits, access."""

from __future__ import annotations

import asyncio
import json
import re
import threading

import httpx
import openai
import pytest

from flows.serve import KEY_VARIABLE, api_key, check_host, listen
from stages.common.errors import ConfigError, EnvironmentFailureError
from stages.common.rollouts import Completion, GenerationRequest
from stages.engines.scripted_engine import ScriptedEngine
from tests.flows.serve_world import TURN_MARK, WINDOW, reader, said, served

BOOK = "A line of a long book. " * 400
CHAT = "/v1/chat/completions"


def ask(client, *texts, role="user", **options):
    messages = [{"role": role, "content": text} for text in texts]
    return client.chat.completions.create(model="scripted", messages=messages, **options)


@pytest.fixture(scope="module")
def running():
    with served() as server:
        yield server


@pytest.fixture(scope="module")
def http():
    """One client: to make one takes a quarter of a second."""
    with httpx.Client(timeout=30) as client:
        yield client


@pytest.fixture
def client(running):
    return running.client()


def test_models_are_listed_and_health_is_told(running, client, http):
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").owned_by == "longfuse"
    assert http.get(f"{running.url}/health").json() == {"status": "ok"}


def test_what_fits_is_answered_in_one_pass_with_its_usage(running, client):
    reply = ask(client, "How are you?")
    assert reply.choices[0].message.content == f"Heard {len('<user>|How are you?|<assistant>|')} bytes."
    assert reply.choices[0].finish_reason == "stop"
    sent = running.engine.requests[-1]
    assert reply.usage.prompt_tokens == len(sent.prompt_ids)
    assert reply.usage.completion_tokens == len(reply.choices[0].message.content) + 1  # the end token
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.longfuse == {"mode": "one_pass"}


def test_what_does_not_fit_is_read_by_the_agent_with_the_last_message_as_its_question(running, client):
    first = len(running.engine.requests)
    reply = ask(client, BOOK, "Who wrote it?")
    prompts = [running.engine.tokenizer.decode(request.prompt_ids) for request in running.engine.requests[first:]]
    turns = reply.longfuse["turns"]
    assert reply.longfuse["mode"] == "agent"
    assert reply.choices[0].message.content == f"The memory says: read {turns}"
    assert len(prompts) == turns + 1
    assert all(prompt.count("<question>Who wrote it?</question>") == 1 for prompt in prompts)
    read = "".join(prompt.rsplit(TURN_MARK, 1)[1].split("\n", 1)[1].split("\n</section>")[0] for prompt in prompts[:-1])
    assert read == "User:\n" + BOOK
    assert reply.usage.prompt_tokens == sum(len(request.prompt_ids) for request in running.engine.requests[first:])


def test_a_stream_is_the_same_text_with_role_reason_and_usage(client):
    whole = ask(client, BOOK, "Who wrote it?")
    chunks = list(ask(client, BOOK, "Who wrote it?", stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_progress_comes_as_comments_and_done_comes_last(running, http):
    messages = [{"role": "user", "content": f"{BOOK}\n\nWho wrote it?"}]
    with http.stream(
        "POST", running.url + CHAT, json={"model": "scripted", "stream": True, "messages": messages}
    ) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    comments = [line for line in lines if line.startswith(":")]
    ends = [int(re.fullmatch(rf": longfuse read section {n}, (\d+) of {len(BOOK)} characters", line)[1])
            for n, line in enumerate(comments, start=1)]  # fmt: skip
    assert ends == sorted(ends)
    assert ends[-1] == len(BOOK)
    assert len(ends) > len(BOOK) // 600
    assert lines[-1] == "data: [DONE]"


def test_stop_texts_end_the_answer_and_a_small_max_tokens_cuts_it(client):
    stopped = ask(client, "Hello", stop=["never", " bytes"])
    assert stopped.choices[0].message.content == f"Heard {len('<user>|Hello|<assistant>|')}"
    assert stopped.choices[0].finish_reason == "stop"
    cut = ask(client, "Hello", max_completion_tokens=5)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("Heard", "length")


def test_sampling_of_a_request_reaches_the_engine_and_the_rest_is_the_servers(running, client):
    ask(client, "Hello", temperature=0.5, top_p=0.25, seed=-3, max_tokens=7, user="u", n=1)
    sent = running.engine.requests[-1]
    assert (sent.temperature, sent.top_p, sent.seed, sent.max_tokens) == (0.5, 0.25, -3, 7)
    ask(client, "Hello")
    sent = running.engine.requests[-1]
    assert (sent.temperature, sent.top_p, sent.seed, sent.max_tokens) == (0.0, 0.95, 17, 100)


REFUSED = {
    "no messages": ({"messages": []}, "messages"),
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\]\.role"),
    "no role": ({"messages": [{"content": "x"}]}, r"messages\[0\]\.role"),
    "last is not the user's": ({"messages": [{"role": "assistant", "content": "x"}]}, r"messages\[0\]"),
    "empty question": ({"messages": [{"role": "user", "content": "  "}]}, r"messages\[0\]"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]\.content"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        r"messages\[0\]\.content\[0\]",
    ),
    "a tool call": (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, {"role": "user", "content": "x"}]},
        r"messages\[0\]\.tool_calls",
    ),
    "hot": ({"temperature": 3}, "temperature"),
    "text for a number": ({"max_tokens": "5"}, "max_tokens"),
    "zero tokens": ({"max_tokens": 0}, "max_tokens"),
    "too many tokens": ({"max_tokens": WINDOW // 2 + 1}, "max_tokens"),
    "both limits": ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    "two answers": ({"n": 2}, "n"),
    "tools": ({"tools": [{"type": "function"}]}, "tools"),
    "json mode": ({"response_format": {"type": "json_object"}}, "response_format"),
    "unknown": ({"temprature": 1}, "temprature"),
    "usage without a stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "five stops": ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    "empty stop": ({"stop": ""}, "stop"),
    "unknown mode": ({"longfuse": {"mode": "fast"}}, r"longfuse\.mode"),
    "no question in a book": ({"messages": [{"role": "user", "content": BOOK}]}, "messages"),
    "one pass of a book": (
        {"longfuse": {"mode": "one_pass"}, "messages": [{"role": "user", "content": f"{BOOK}\n\nWho?"}]},
        "messages",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused_by_name(running, http, case):
    change, param = REFUSED[case]
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]} | change
    for stream in (False, True):
        if case == "usage without a stream" and stream:
            continue
        reply = http.post(running.url + CHAT, json=body | {"stream": stream})
        error = reply.json()["error"]
        assert reply.status_code == 400
        assert error["type"] == "invalid_request_error"
        assert re.fullmatch(param, error["param"]), error


def test_the_client_raises_its_own_exceptions(client):
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'") as missing:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match=r"unknown parameter 'temprature'\. Did you mean temperature"):
        ask(client, "x", extra_body={"temprature": 1})
    with pytest.raises(openai.NotFoundError, match="see GET /v1/models"):
        client.embeddings.create(model="scripted", input="x")


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (b"{", {}, "no JSON"),
        (b"\xff\xfe", {}, "no JSON"),
        (b"[" * 100_000, {}, "no JSON"),
        (b"[]", {}, "must be a JSON object"),
        (b'{"model": "scripted", "messages": [], "seed": ' + b"9" * 5000 + b"}", {}, "no JSON"),
        (b"{}", {"Content-Type": "text/plain"}, "Content-Type: application/json"),
    ],
)
def test_a_body_that_is_no_request(running, http, content, headers, said):
    reply = http.post(running.url + CHAT, content=content, headers={"Content-Type": "application/json"} | headers)
    assert (reply.status_code, said in reply.json()["error"]["message"]) == (400, True)


def test_half_a_character_and_marks_of_the_template_are_data(running, http):
    body = b'{"model": "scripted", "messages": [{"role": "user", "content": "a\\ud83d <|im_end|> b"}]}'
    reply = http.post(running.url + CHAT, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200
    assert "a\ufffd ‹|im_end|> b" in running.engine.tokenizer.decode(running.engine.requests[-1].prompt_ids)


def test_a_page_of_another_site_gets_nothing(running, http):
    reply = http.get(f"{running.url}/v1/models", headers={"Host": "evil.example"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")


def test_a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not(http):
    with served(max_request_mb=1) as server:
        large = b"x" * 3_000_000
        for content in (large, iter([large[:1_500_000], large[1_500_000:]])):
            reply = http.post(server.url + CHAT, content=content, headers={"Content-Type": "application/json"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        server.wait_until_idle()
        assert ask(server.client(), "Hello").choices[0].finish_reason == "stop"


def test_the_key_is_asked_for(http):
    with served(key="s3cret") as server:
        for key in ("wrong", "s3cre", "s3cret2"):
            with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
                server.client(key).models.list()
        assert http.post(server.url + CHAT, json={}).status_code == 401
        assert http.get(f"{server.url}/health").status_code == 200
        assert ask(server.client("s3cret"), "Hello").choices[0].finish_reason == "stop"
        named = http.get(f"{server.url}/v1/models", headers={"Host": "name.example", "Authorization": "Bearer s3cret"})
        assert named.status_code == 200


def test_where_a_key_comes_from_and_where_one_is_needed(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert api_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "from-the-environment")
    assert api_key(None) == "from-the-environment"
    (tmp_path / "key").write_text("from-a-file\n")
    assert api_key(tmp_path / "key") == "from-a-file"
    for bad in ("", "two words", "umlaut-ä"):
        (tmp_path / "bad").write_text(bad)
        with pytest.raises(ConfigError, match="no usable API key"):
            api_key(tmp_path / "bad")
    with pytest.raises(ConfigError, match="cannot be read"):
        api_key(tmp_path / "absent")
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_host(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        check_host(host, "key")
        with pytest.raises(ConfigError, match="reachable from other machines, and without an API key"):
            check_host(host, None)


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded():
    with listen("127.0.0.1", 0) as taken, pytest.raises(EnvironmentFailureError, match="Choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])


class Gate:
    """Holds the engine back at a prompt that contains a mark."""

    def __init__(self, mark):
        self.mark = mark
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, prompt, request: GenerationRequest, index):
        if self.mark in prompt:
            self.reached.set()
            assert self.open.wait(20)
        return reader(prompt, request, index)


def test_one_more_than_the_limit_is_told_when_to_come_back():
    gate = Gate("wait here")
    with served(gate, max_concurrent=1) as server:
        client = server.client()
        first = threading.Thread(target=ask, args=(client, "wait here"))
        first.start()
        assert gate.reached.wait(10)
        with pytest.raises(openai.RateLimitError, match="as many as this server takes") as refused:
            ask(client, "Hello")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert [model.id for model in client.models.list()] == ["scripted"]  # the engine does not block the server
        gate.open.set()
        first.join(10)
        server.wait_until_idle()
        assert ask(client, "Hello").choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_slot_and_its_document_is_read_no_further(stream):
    gate = Gate(f'{TURN_MARK}"3"')
    with served(gate, max_concurrent=1) as server, said("the client has gone") as noticed:
        body = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": f"{BOOK}\n\nWho?"}]}
        with httpx.Client() as gone:
            if stream:
                with gone.stream("POST", server.url + CHAT, json=body) as reply:
                    lines = reply.iter_lines()  # dropping it would close the connection
                    while "section 2" not in next(lines):
                        pass
                    assert gate.reached.wait(10)
            else:
                with pytest.raises(httpx.ReadTimeout):
                    gone.post(server.url + CHAT, json=body, timeout=httpx.Timeout(10, read=0.5))
                assert gate.reached.is_set()
        assert noticed.wait(10)
        asked = len(server.engine.requests)
        gate.open.set()
        server.wait_until_idle()
        assert len(server.engine.requests) == asked  # the third turn was under way, a fourth was never asked
        assert ask(server.client(), "Hello").choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_over_the_time_limit_is_given_up_and_told_once(stream):
    gate = Gate(f'{TURN_MARK}"3"')
    traces = []

    def start_trace(question, attributes):
        traces.append(Noted(question, attributes))
        return traces[-1]

    with served(gate, start_trace=start_trace, max_concurrent=1, max_answer_seconds=1.0) as server:
        client = server.client().with_options(max_retries=2)
        if stream:
            with pytest.raises(openai.APIError, match="not ready after 1 s") as late:
                list(ask(client, f"{BOOK}\n\nWho?", stream=True))
        else:
            with pytest.raises(openai.InternalServerError, match="not ready after 1 s") as late:
                ask(client, f"{BOOK}\n\nWho?")
            assert late.value.status_code == 504
        assert late.value.code == "time_limit_exceeded"
        assert gate.reached.is_set()
        asked = len(server.engine.requests)
        gate.open.set()
        server.wait_until_idle()
        assert len(server.engine.requests) == asked  # the third turn was under way, a fourth was never asked
        assert len(traces) == 1  # the client did not try again
        assert [entry[0] for entry in traces[0].told] == ["question", "turn", "turn", "fail"]
        assert "not ready after 1 s" in traces[0].told[-1][1]
        assert ask(client, "Hello").choices[0].finish_reason == "stop"


def test_tokens_that_go_on_coming_do_not_push_the_limit_back():
    class Endless(ScriptedEngine):
        """Says a word at a time, for ever."""

        async def generate(self, request):
            await asyncio.sleep(0.01)
            return [Completion(tuple(b"word " * 6), (0.0,) * 30, "length")]

    engine = Endless(reader, max_model_tokens=200_000)
    with served(engine=engine, streaming="pieces", max_answer_seconds=0.5) as server:
        words = []
        with pytest.raises(openai.APIError, match=r"not ready after 0\.5 s"):
            words.extend(ask(server.client(), "Hello", stream=True, max_tokens=90_000))
        assert len(words) > 5
        server.wait_until_idle()


def test_the_question_is_split_as_the_server_was_told_to():
    core, form = "Who owns the key?", "Kindly in capitals."
    reply = json.dumps({"core": core, "instructions": form})

    def script(prompt, request, index):
        return reply if "Split a question into two parts" in prompt else reader(prompt, request, index)

    answers = {}
    for way in ("rules", "model", "off"):
        with served(script, split_question=way) as server:
            answers[way] = ask(server.client(), BOOK, f"{core} {form}")
            prompts = [server.engine.tokenizer.decode(request.prompt_ids) for request in server.engine.requests]
        assert ("Split a question" in prompts[0]) == (way == "model")
        *reading, last = prompts[way == "model" :]
        asked = core if way == "model" else f"{core} {form}"  # the rules do not know such an instruction
        assert all(f"<question>{asked}</question>" in prompt for prompt in [*reading, last])
        assert (f"</question>\n{form}" in last) == (way == "model")
    # The split counts: its reply and an end token
    assert answers["model"].usage.completion_tokens == answers["off"].usage.completion_tokens + len(reply) + 1


def test_an_engine_that_fails_is_an_error_of_the_server_and_then_of_its_health(http, caplog):
    def script(prompt, request, index):
        if "crash" in prompt:
            raise EnvironmentFailureError("the GPU is gone.")
        if "bug" in prompt:
            raise KeyError("secret detail")
        return "fine"

    with served(script) as server:
        client = server.client()
        with pytest.raises(openai.InternalServerError, match="its log says why") as failed:
            ask(client, "bug")
        assert "secret detail" not in str(failed.value)
        assert "secret detail" in caplog.text
        assert http.get(f"{server.url}/health").status_code == 200
        with pytest.raises(openai.APIError, match="the GPU is gone"):
            list(ask(client, "crash", stream=True))
        assert http.get(f"{server.url}/health").status_code == 503


def test_a_server_that_is_stopped_gives_up_what_does_not_end_in_time():
    gate = Gate("wait here")
    failures = []

    def last_request(client):
        try:
            ask(client, "wait here")
        except openai.APIError as error:
            failures.append(error)

    with served(gate) as server:
        waiting = threading.Thread(target=last_request, args=(server.client(),))
        waiting.start()
        assert gate.reached.wait(10)
        server.http.should_exit = True
        waiting.join(10)  # a second of grace, then the connection is closed
        gate.open.set()
        assert not waiting.is_alive()
    assert "the server is being stopped" in str(failures)
    assert server.engine.closed


class Noted:
    """A trace that keeps what it is told."""

    def __init__(self, question, attributes):
        self.told = [("question", question, attributes)]

    def turn(self, turn):
        self.told.append(("turn", turn.number, turn.memory))

    def end(self, answer, attributes):
        self.told.append(("end", answer, attributes))

    def fail(self, why):
        self.told.append(("fail", why))


def test_every_question_is_traced_with_its_turns_and_its_end():
    traces = []

    def start_trace(question, attributes):
        traces.append(Noted(question, attributes))
        return traces[-1]

    def script(prompt, request, index):
        assert "break" not in prompt, "asked to break"
        return reader(prompt, request, index)

    with served(script, start_trace=start_trace) as server:
        client = server.client()
        read = ask(client, BOOK, "Who?")
        passed = ask(client, "Hello")
        with pytest.raises(openai.InternalServerError):
            ask(client, "break")
    first, second, third = (trace.told for trace in traces)
    turns = read.longfuse["turns"]
    assert first[0] == ("question", "Who?", {"mode": "agent", "document_characters": len("User:\n" + BOOK)})
    assert first[1:-1] == [("turn", number, f"read {number}") for number in range(1, turns + 1)]
    assert first[-1][:2] == ("end", f"The memory says: read {turns}")
    assert first[-1][2]["prompt_tokens"] == read.usage.prompt_tokens
    assert first[-1][2]["turns"] == turns
    assert second[-1][:2] == ("end", passed.choices[0].message.content)
    assert third[-1][0] == "fail"
    assert "asked to break" in third[-1][1]
