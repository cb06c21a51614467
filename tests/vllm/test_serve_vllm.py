"""`longfuse serve` with a real vLLM on CPU and the official client, both ways: vLLM inside the process, and a vLLM server as its engine.

Run by `make test-vllm`, in vLLM's environment: what `longfuse serve --engine vllm` imports is all there.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("vllm")

import openai

from tests.tiny_chat_model import write_tiny_model

ROOT = Path(__file__).parents[2]
MODEL = "tiny"
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
QUESTION = {"role": "user", "content": "Who?"}
BOOK = {"role": "user", "content": "A line of a book. " * 150}  # 2,700 tokens, the window has 2,048
LIBRARY = {"role": "user", "content": "A line of a book. " * 20_000}  # minutes of reading


@contextmanager
def process(log: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these arguments, its output in `log`; ended with SIGTERM."""
    with log.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **CPU, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()


def wait_for(started: subprocess.Popen[bytes], log: Path, found: Any, seconds: float = 280) -> Any:
    """What `found` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert started.poll() is None, log.read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.5)
    return value


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def served(model: Path, log: Path, engine: str, *flags: str, **environment: str) -> Iterator[str]:
    """The address of `longfuse serve` for one answer at a time."""
    words = ["-m", "flows.cli", "serve", "--engine", engine, "--model", str(model), "--port", "0", "--dtype", "float32"]
    words += ["--max-concurrent", "1", "--max-request-mb", "1", *flags]
    with process(log, *words, **environment) as started:

        def address() -> str | None:
            said = re.search(rf"Serving {MODEL} at (http://\S+)", log.read_text(errors="replace"))
            return said[1] if said else None

        yield wait_for(started, log, address)
    assert started.returncode == 0, log.read_text(errors="replace")[-4000:]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / MODEL
    write_tiny_model(folder, hidden_size=64)  # heads of 32, the smallest of vLLM's CPU kernels
    return folder


@pytest.fixture(scope="module")
def vllm_server(model: Path) -> Iterator[str]:
    """The address of a vLLM server, as `vllm serve` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    words += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--generation-config", "vllm"]
    url, log = f"http://127.0.0.1:{port}", model.with_name("vllm.log")
    with process(log, *words) as started:
        wait_for(started, log, lambda: healthy(url))
        yield url


@pytest.fixture(scope="module", params=["vllm", "remote"])
def address(request: pytest.FixtureRequest, model: Path) -> Iterator[str]:
    """The endpoint, with vLLM in its process or behind it."""
    log = model.with_name(f"serve-{request.param}.log")
    if request.param == "vllm":
        with served(model, log, "vllm") as url:
            yield url
        return
    with served(model, log, "remote", LONGFUSE_ENGINE_URL=request.getfixturevalue("vllm_server")) as url:
        yield url


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120)


def ask(client: openai.OpenAI, *messages: dict[str, str], **options: Any) -> Any:
    """An answer; one that was just given up may hold the only slot for another step."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return client.chat.completions.create(model=MODEL, messages=list(messages), **options)  # type: ignore[call-overload]
        except openai.RateLimitError:
            assert time.monotonic() < deadline, "the slot of an answer that was given up is not free"
            time.sleep(0.2)


def test_a_short_request_is_answered_in_one_pass(client: openai.OpenAI) -> None:
    reply = ask(client, QUESTION, max_tokens=7)
    assert reply.longfuse == {"mode": "one_pass"}
    assert 1 <= reply.usage.completion_tokens <= 7
    assert reply.choices[0].message.content


def test_a_request_longer_than_the_window_is_read_by_the_agent_and_streams_the_same(client: openai.OpenAI) -> None:
    options = {"max_tokens": 40, "temperature": 0}
    whole = ask(client, BOOK, QUESTION, **options)
    assert whole.longfuse["mode"] == "agent"
    assert whole.longfuse["turns"] > 3
    assert whole.usage.prompt_tokens > 2_700
    chunks = list(ask(client, BOOK, QUESTION, stream=True, **options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].longfuse["turns"] == whole.longfuse["turns"]


def test_a_stream_comes_in_pieces(client: openai.OpenAI) -> None:
    texts = [
        chunk.choices[0].delta.content
        for chunk in ask(client, QUESTION, max_tokens=200, stream=True, temperature=0)
        if chunk.choices[0].delta.content
    ]
    assert len(texts) > 1


def test_a_client_that_disconnects_frees_its_slot(client: openai.OpenAI) -> None:
    stream = ask(client, LIBRARY, QUESTION, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=[QUESTION], max_tokens=2)  # type: ignore[list-item]
    stream.close()
    assert ask(client, QUESTION, max_tokens=2).usage.completion_tokens <= 2


def test_limits_are_told_in_the_client_s_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        ask(client, QUESTION, max_tokens=5_000)
    with pytest.raises(openai.APIStatusError) as large:
        ask(client, {"role": "user", "content": "x" * 1_100_000}, QUESTION)
    assert large.value.status_code == 413


def test_an_answer_over_the_time_limit_is_given_up(model: Path, vllm_server: str) -> None:
    flags = ["--max-answer-seconds", "5"]
    with served(model, model.with_name("limit.log"), "remote", *flags, LONGFUSE_ENGINE_URL=vllm_server) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        with pytest.raises(openai.InternalServerError) as late:
            ask(client, LIBRARY, QUESTION)
        assert late.value.status_code == 504
        assert late.value.code == "time_limit_exceeded"
        assert ask(client, QUESTION, max_tokens=2).usage.completion_tokens <= 2
