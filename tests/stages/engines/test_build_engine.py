"""From `train.engine` to an engine; versions of vLLM; a remote server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.base_model.random_model import make_tokenizer, write_random_model
from stages.common.config import TrainConfig
from stages.common.errors import ConfigError, EnvironmentFailureError, InputError
from stages.common.rollouts import Completion, GenerationRequest
from stages.engines.access import RemoteAccess, set_remote_engine
from stages.engines.base import RolloutEngine
from stages.engines.build import build_engine
from stages.engines.remote_engine import RemoteEngine
from stages.engines.remote_weights import buckets
from stages.engines.requests import end_ids
from stages.engines.transformers_engine import TransformersEngine
from stages.engines.vllm_version import check_version, installed_version
from tests.train_settings import ENGINE, TRAIN


def _config(**engine: Any) -> TrainConfig:
    return TrainConfig(**{**TRAIN, "engine": {**ENGINE, **engine}})


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder, seed=3)
    return folder


@pytest.mark.parametrize("version", ["0.25.0", "0.26.1", "0.28.0", "0.28.3+cpu", "0.27.0rc1"])
def test_supported_versions_pass(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.24.9", "0.29.0", "1.0.0", "0.8.5", "0.100.0", "of unknown version"])
def test_other_versions_are_refused_with_the_range_and_the_command(version):
    with pytest.raises(InputError, match=r"0\.25 to 0\.28.*pip install 'vllm>=0\.25,<0\.29'"):
        check_version(version)


def test_a_missing_vllm_is_told_with_the_way_out(model_dir):
    with pytest.raises(InputError, match=r"vLLM is not installed.*train\.engine\.kind to transformers"):
        check_version(None)
    if installed_version() is None:
        with pytest.raises(InputError, match="vLLM is not installed"):
            build_engine(model_dir, _config(kind="vllm"))


def test_the_transformers_engine_shares_the_trainers_model(model_dir):
    own = build_engine(model_dir, _config())
    assert isinstance(own, TransformersEngine)
    assert isinstance(own, RolloutEngine)
    shared = build_engine(model_dir, _config(), model=own._model, tokenizer=own.tokenizer)
    assert shared._model is own._model
    assert shared.tokenizer is own.tokenizer


def test_a_remote_engine_without_an_address_names_the_variable(model_dir):
    set_remote_engine(None)
    with pytest.raises(ConfigError, match="LONGFUSE_ENGINE_URL"):
        build_engine(model_dir, _config(kind="remote"))


def test_shares_and_tensor_parallel_are_checked():
    with pytest.raises(ValidationError, match="gpu_memory_utilization"):
        _config(gpu_memory_utilization=1.5)
    with pytest.raises(ValidationError, match="needs kind vllm"):
        _config(tensor_parallel_size=2)
    assert _config(kind="vllm", tensor_parallel_size=2).engine.tensor_parallel_size == 2


def test_end_ids_are_the_tokenizers_and_the_generation_configs(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.eos_id = 2
    assert end_ids(tmp_path, tokenizer) == [2]
    for declared, expected in ((7, [2, 7]), ([9, 2, 5], [2, 5, 9]), (None, [2])):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
        assert end_ids(tmp_path, tokenizer) == expected


def test_buckets_hold_own_copies_up_to_their_size():
    import torch

    tensors = {name: torch.full((count,), float(count)) for name, count in (("a", 3), ("b", 2), ("c", 9), ("d", 1))}
    told = list(buckets(tensors.items(), most_bytes=20))
    assert [[name for name, _ in bucket] for bucket in told] == [["a", "b"], ["c"], ["d"]]
    tensors["a"].zero_()
    assert told[0][0][1].tolist() == [3.0, 3.0, 3.0]


class Server(ThreadingHTTPServer):
    """What vLLM's server answers, as far as the engine asks; `answer` writes the reply of /v1/completions."""

    daemon_threads = True

    def __init__(self, root: str, answer: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.answer = root, answer
        self.asked: list[str] = []
        self.version = "0.28.0"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        model = {"id": "m", "root": self.server.root, "max_model_len": 64}
        self.say({"version": self.server.version} if self.path == "/version" else {"data": [model]})

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.answer(self, body)

    def say(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, *events: dict[str, Any] | str) -> None:
        self.send_response(200)
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _choice(ids: list[int], reason: str | None, index: int = 0) -> dict[str, Any]:
    logprobs = {"token_logprobs": [-0.5] * len(ids)}
    choice = {"index": index, "text": "", "token_ids": ids, "logprobs": logprobs, "finish_reason": reason}
    return {"choices": [choice]}


@pytest.fixture
def serve(model_dir: Path) -> Iterator[Callable[..., tuple[Server, RemoteEngine]]]:
    """A server with a given behaviour, and an engine that asks it."""
    opened: list[tuple[Server, RemoteEngine]] = []

    def start(answer: Callable[..., None], timeout_seconds: float = 10.0) -> tuple[Server, RemoteEngine]:
        server = Server(str(model_dir.resolve()), answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened.append((server, RemoteEngine(model_dir, RemoteAccess(server.url), timeout_seconds=timeout_seconds)))
        return opened[-1]

    yield start
    for server, engine in opened:
        engine.close()
        server.shutdown()
        server.server_close()


REQUEST = GenerationRequest(prompt_ids=(1, 2), n=2, max_tokens=4, temperature=0.7, top_p=0.9, seed=5, stop=("x",))


def test_streamed_parts_are_put_together_by_answer(serve):
    def answer(handler: Any, body: dict[str, Any]) -> None:
        assert body["prompt"] == [1, 2]
        assert (body["n"], body["temperature"], body["top_p"], body["stop"]) == (2, 0.7, 0.9, ["x"])
        assert body["return_token_ids"] is body["ignore_eos"] is body["stream"] is True
        parts = [([7], None, 0), ([8, 9], None, 1), ([6], "stop", 0), ([5, 4], "length", 1)]
        handler.stream(*(_choice(*part) for part in parts), "[DONE]")

    _, engine = serve(answer)
    expected = [
        Completion((7, 6), (-0.5, -0.5), "stop"),
        Completion((8, 9, 5, 4), (-0.5,) * 4, "length"),
    ]
    assert engine.generate_all([REQUEST]) == [expected]
    assert asyncio.run(engine.generate(REQUEST)) == expected
    assert engine.max_model_tokens == 64


def test_a_broken_stream_is_asked_again_with_the_same_seed(serve):
    seeds = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        seeds.append(body["seed"])
        if len(seeds) < 3:
            handler.stream(_choice([7], None))  # and no end
        else:
            handler.stream(_choice([1], "stop", 0), _choice([2], "stop", 1), "[DONE]")

    _, engine = serve(answer)
    assert [answer.token_ids for answer in engine.generate_all([REQUEST])[0]] == [(1,), (2,)]
    assert len(seeds) == 3
    assert len(set(seeds)) == 1


def test_a_server_that_falls_silent_is_given_up_in_bounded_time(serve):
    released = threading.Event()
    _, engine = serve(lambda handler, body: (handler.stream(_choice([7], None)), released.wait(20)), 0.4)
    started = time.monotonic()
    with pytest.raises(EnvironmentFailureError, match=r"has said nothing for 0\.4 s while generating"):
        engine.generate_all([REQUEST])
    assert time.monotonic() - started < 15
    released.set()


def test_refusals_and_failures_are_told_and_not_repeated(serve):
    replies = iter([(400, "max_tokens is too large"), (500, "engine core died"), (404, "")])
    server, engine = serve(lambda handler, body: handler.say(*reversed(next(replies))))
    with pytest.raises(InputError, match="max_tokens is too large"):
        engine.generate_all([REQUEST])
    with pytest.raises(EnvironmentFailureError, match="engine core died"):
        engine.generate_all([REQUEST])
    with pytest.raises(ConfigError, match="without /v1"):
        engine.generate_all([REQUEST])
    assert server.asked.count("/v1/completions") == 3


def test_a_call_that_changes_the_server_is_made_once(serve):
    def answer(handler: Any, body: dict[str, Any]) -> None:
        handler.connection.close()

    server, engine = serve(answer)
    with pytest.raises(EnvironmentFailureError, match="broke off while calling /update_weights"):
        engine.post("/update_weights", {"update_info": {}})
    assert server.asked.count("/update_weights") == 1


def test_an_unsupported_server_is_refused(serve, model_dir):
    server, _ = serve(lambda handler, body: None)
    server.version = "0.19.1"
    with pytest.raises(InputError, match=r"vLLM 0\.19\.1 runs at http.*0\.25 to 0\.28"):
        RemoteEngine(model_dir, RemoteAccess(server.url), timeout_seconds=5)
