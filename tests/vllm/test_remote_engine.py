"""RemoteEngine against a real vLLM server on CPU with a tiny model. Run by `make test-vllm`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

pytest.importorskip("vllm")

from stages.base_model.random_model import make_tokenizer
from stages.base_model.saving import save_model
from stages.common.errors import ConfigError, EnvironmentFailureError, InputError
from stages.common.rollouts import GenerationRequest
from stages.engines.access import RemoteAccess
from stages.engines.base import RolloutEngine
from stages.engines.remote_engine import RemoteEngine
from stages.engines.transformers_engine import TransformersEngine

PROMPTS = [(5, 9, 300, 41), (7, 11), (1000, 3, 3, 8, 900, 77, 64)]
KEY = "a-key"


def _write_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=2_000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=2,
        pad_token_id=0,
    )
    save_model(Qwen3ForCausalLM(config).eval(), make_tokenizer(), folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and model folder of a server that runs for all tests here."""
    folder = tmp_path_factory.mktemp("served")
    _write_model(folder, seed=0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = (folder.parent / "server.log").open("wb")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += [
        "--host",
        "127.0.0.1",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "256",
        "--api-key",
        KEY,
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, (folder.parent / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder.parent / "server.log").read_text()[-3000:]
            try:
                if httpx.get(f"{url}/health", timeout=2).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield url, folder
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def engine(server: tuple[str, Path]) -> Iterator[RemoteEngine]:
    url, folder = server
    engine = RemoteEngine(folder, RemoteAccess(url, KEY), timeout_seconds=60)
    yield engine
    engine.close()


def _request(prompt: tuple[int, ...], **options: Any) -> GenerationRequest:
    wanted: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0} | options
    return GenerationRequest(prompt_ids=prompt, **wanted)


def test_greedy_answers_and_logprobs_equal_those_of_transformers(
    engine: RemoteEngine, server: tuple[str, Path]
) -> None:
    assert isinstance(engine, RolloutEngine)
    assert engine.max_model_tokens == 256
    reference = TransformersEngine(server[1], compute_dtype="float32")
    requests = [_request(prompt) for prompt in PROMPTS]
    for [ours], [theirs] in zip(engine.generate_all(requests), reference.generate_all(requests), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.finish_reason == theirs.finish_reason
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)


def test_a_group_comes_back_whole_and_repeats_by_its_seed(engine: RemoteEngine) -> None:
    request = _request(PROMPTS[0], n=6, temperature=1.0, top_p=0.9, seed=2**62 + 5)
    [first], [again] = engine.generate_all([request]), engine.generate_all([request])
    assert len({answer.token_ids for answer in first}) == 6
    assert [answer.token_ids for answer in first] == [answer.token_ids for answer in again]
    [other] = engine.generate_all([_request(PROMPTS[0], n=6, temperature=1.0, top_p=0.9, seed=6)])
    assert {answer.token_ids for answer in first}.isdisjoint(answer.token_ids for answer in other)


def test_coroutines_share_the_server(engine: RemoteEngine) -> None:
    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(engine.generate(_request((i + 3, 9))) for i in range(40))))

    together = asyncio.run(ask())
    alone = [engine.generate_all([_request((i + 3, 9))])[0][0].token_ids for i in (0, 7, 39)]
    assert [together[i][0].token_ids for i in (0, 7, 39)] == alone


def test_a_server_with_another_model_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    _write_model(tmp_path, seed=1)
    engine = RemoteEngine(tmp_path, RemoteAccess(server[0], KEY), timeout_seconds=60)
    try:
        with pytest.raises(InputError, match="was started with"):
            engine.generate_all([_request(PROMPTS[0])])
    finally:
        engine.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine could push")
def test_pushing_weights_without_a_gpu_is_refused(engine: RemoteEngine) -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        engine.load_weights([("model.norm.weight", torch.ones(64))])


def test_a_wrong_key_is_told(server: tuple[str, Path]) -> None:
    with pytest.raises(ConfigError, match="LONGFUSE_ENGINE_KEY"):
        RemoteEngine(server[1], RemoteAccess(server[0], "wrong"), timeout_seconds=10)


def test_an_address_without_a_server_is_told(server: tuple[str, Path]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(EnvironmentFailureError, match="cannot be reached"):
            RemoteEngine(server[1], RemoteAccess(f"http://127.0.0.1:{probe.getsockname()[1]}"), timeout_seconds=5)
