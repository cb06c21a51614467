"""`longfuse serve` with a real tiny model in this process: tokens as they come, in both ways, and giving up."""

from __future__ import annotations

import threading
from itertools import pairwise

import httpx
import pytest

from flows.serve import KEY_VARIABLE, ServeRequest, serve
from flows.serve_transformers import WatchedTransformersEngine
from stages.common.errors import UserError
from stages.common.rollouts import GenerationRequest
from stages.common.tokens import ChatTokenizer
from stages.engines.transformers_engine import TransformersEngine
from stages.memory.window import AgentLengths
from tests.flows.serve_world import said, served
from tests.tiny_chat_model import write_tiny_model

LENGTHS = AgentLengths(chunk=300, memory=60, plan=16, turn=60, answer=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny"
    write_tiny_model(path)
    return path


def ask(client, text, **options):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="scripted", messages=messages, **options)


def streamed(client, text, **options):
    chunks = list(ask(client, text, stream=True, stream_options={"include_usage": True}, **options))
    texts = [chunk.choices[0].delta.content for chunk in chunks[1:-1] if chunk.choices[0].delta.content]
    return texts, chunks[-1].usage


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_come_one_by_one_and_are_those_of_the_whole_answer(folder, temperature):
    engine = WatchedTransformersEngine(folder, compute_dtype="float32", batch_groups=True)
    options = {"temperature": temperature, "max_tokens": 40}
    with served(engine=engine, tokenizer=ChatTokenizer(folder), lengths=LENGTHS, streaming="tokens") as server:
        client = server.client()
        for text in ("Hello", "A line. " * 300 + "\n\nWho?"):
            whole = ask(client, text, **options)
            texts, usage = streamed(client, text, **options)
            assert "".join(texts) == whole.choices[0].message.content
            assert usage == whole.usage
            assert len(texts) > 10
        assert whole.longfuse["turns"] > 5
        assert engine.watches == {}


def test_watching_changes_no_token(folder):
    plain = TransformersEngine(folder, compute_dtype="float32")
    watched = WatchedTransformersEngine(folder, compute_dtype="float32")
    prompt = ChatTokenizer(folder).encode_chat([{"role": "user", "content": "Hello"}])
    with served(engine=watched, tokenizer=ChatTokenizer(folder), lengths=LENGTHS, streaming="tokens") as server:
        content = ask(server.client(), "Hello", max_tokens=30).choices[0].message.content
    ((expected,),) = plain.generate_all([GenerationRequest(prompt_ids=prompt, max_tokens=30, temperature=0)])
    assert content == plain.tokenizer.decode(expected.token_ids).strip()


def test_in_pieces_a_greedy_answer_is_the_same_and_each_piece_goes_on_where_the_last_one_ended(folder):
    asked = []

    class Recorded(TransformersEngine):
        async def generate(self, request):
            completions = await super().generate(request)
            asked.append((request, completions[0]))
            return completions

    engine = Recorded(folder, compute_dtype="float32")
    with served(engine=engine, tokenizer=ChatTokenizer(folder), lengths=LENGTHS, streaming="pieces") as server:
        whole = ask(server.client(), "Hello", max_tokens=70)
        ((_, expected),) = asked
        asked.clear()
        texts, usage = streamed(server.client(), "Hello", max_tokens=70)
    assert "".join(texts) == whole.choices[0].message.content
    assert usage == whole.usage
    assert len(expected.token_ids) == 70, "the model ended early, so the pieces were not tried"
    assert [request.max_tokens for request, _ in asked] == [32, 32, 6]
    assert len({request.seed for request, _ in asked}) == 3
    for (request, completion), (following, _) in pairwise(asked):
        assert following.prompt_ids == request.prompt_ids + completion.token_ids
    assert sum((completion.token_ids for _, completion in asked), ()) == expected.token_ids


def test_a_stop_text_ends_the_generation_there(folder):
    decoded = []

    class Counted(WatchedTransformersEngine):
        def _decode(self, active, cache, prompt_columns):
            decoded.append(len(active))
            return super()._decode(active, cache, prompt_columns)

    engine = Counted(folder, compute_dtype="float32")
    with served(engine=engine, tokenizer=ChatTokenizer(folder), lengths=LENGTHS, streaming="tokens") as server:
        content = ask(server.client(), "Hello", max_tokens=40, temperature=1).choices[0].message.content
        stop = content[10:12]
        decoded.clear()
        cut = ask(server.client(), "Hello", max_tokens=40, temperature=1, stop=stop)
    assert cut.choices[0].message.content == content[: content.index(stop)].strip()
    assert cut.choices[0].finish_reason == "stop"
    assert len(decoded) < 39
    assert cut.usage.completion_tokens < 40


def test_a_client_that_goes_ends_its_row_and_the_others_go_on(folder):
    gate, reached, decoded = threading.Event(), threading.Event(), []

    class Held(WatchedTransformersEngine):
        def _decode(self, active, cache, prompt_columns):
            decoded.append(len(active))
            if len(decoded) == 5:
                reached.set()
                assert gate.wait(20)
            return super()._decode(active, cache, prompt_columns)

    engine = Held(folder, compute_dtype="float32")
    with (
        served(
            engine=engine, tokenizer=ChatTokenizer(folder), lengths=LENGTHS, streaming="tokens", max_concurrent=1
        ) as server,
        said("the client has gone") as noticed,
    ):
        body = {
            "model": "scripted",
            "stream": True,
            "max_tokens": 1000,
            "messages": [{"role": "user", "content": "Hello"}],
        }
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()  # dropping it would close the connection
            next(lines)
            assert reached.wait(20)
        assert noticed.wait(10)
        gate.set()
        server.wait_until_idle()
        assert len(decoded) == 5  # 995 more were asked for
        answer = ask(server.client(), "Hello", max_tokens=3)
        assert answer.usage.completion_tokens == 3


def test_what_cannot_be_served_is_refused_with_the_remedy(folder, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    for changes, said_why in (
        ({"host": "0.0.0.0"}, "without an API key everybody there could use the model"),
        ({"model": tmp_path}, "is no model folder"),
        ({"engine": "other"}, "choose transformers, vllm or remote"),
        ({"chunk_tokens": 9000}, "a turn of the memory agent needs"),
    ):
        with pytest.raises(UserError, match=said_why):
            serve(ServeRequest(**({"model": folder, "port": 0, "threads": 1, "dtype": "float32"} | changes)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name a model folder with --model"):
        serve(ServeRequest(port=0))
