"""Generation by a vLLM server elsewhere, over its OpenAI-compatible API: token ids in, token ids and log-probabilities out.

    vllm serve FOLDER --generation-config vllm                                  evaluation of the model in FOLDER
    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --weight-transfer-config '{"backend": "nccl"}'    training: weights are pushed

Answers are streamed, so a server that stops sending is noticed within `timeout_seconds` however long answers are. What
changes nothing on the server (looking up, generating: the seed is in the request) is tried again when a connection
breaks; a weight update never is.

A server that was started with another folder than the one asked for is refused until weights were pushed to it:
answers of the wrong model would look like results.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from stages.common.errors import ConfigError, EnvironmentFailureError, InputError
from stages.common.rollouts import Completion, FinishReason, GenerationRequest
from stages.common.seeds import derive_seed
from stages.common.tokens import ChatTokenizer
from stages.engines.access import KEY_VARIABLE, URL_VARIABLE, RemoteAccess
from stages.engines.requests import check_request, end_ids
from stages.engines.vllm_version import check_version

if TYPE_CHECKING:
    import torch

_TRIES = 3


class RemoteEngine:
    """Implements RolloutEngine over HTTP.

    model_dir: the model that is asked; its folder must be the server's, or its weights be pushed by load_weights.
    timeout_seconds: longest silence of the server while it is asked for something.

    Raises EnvironmentFailureError for a server that cannot be reached, dies or falls silent; ConfigError for a wrong
    address or key; InputError for an unsupported version or a model that does not fit.
    """

    def __init__(
        self,
        model_dir: Path,
        access: RemoteAccess,
        *,
        max_model_tokens: int | None = None,
        tokenizer: ChatTokenizer | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        self.tokenizer = tokenizer if tokenizer is not None else ChatTokenizer(model_dir)
        self._model_dir = model_dir
        self._url = access.url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._end_ids = end_ids(model_dir, self.tokenizer)
        self._pusher: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-engine", daemon=True)
        self._thread.start()
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers={} if access.key is None else {"Authorization": f"Bearer {access.key}"},
            timeout=httpx.Timeout(timeout_seconds, connect=min(30.0, timeout_seconds)),
            limits=httpx.Limits(max_connections=None),
        )
        try:
            version = str(self._wait(self._get("/version")).get("version", "")) or "of unknown version"
            check_version(version, f"runs at {self._url}")
            [served, *_] = self._wait(self._get("/v1/models"))["data"]
        except BaseException:
            self.close()
            raise
        self._name = str(served["id"])
        self._root = str(served.get("root"))
        self._right_weights = Path(self._root) == model_dir.resolve()
        limit = int(served["max_model_len"])
        self.max_model_tokens = min(limit, max_model_tokens or limit)

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return `request.n` completions; the server batches what is asked at the same time."""
        self._check(request)
        return await asyncio.wrap_future(self._start(self._complete(request)))

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Generate for all requests, results in order. Raises InputError before any work if one is too long."""
        for request in requests:
            self._check(request)
        futures = [self._start(self._complete(request)) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def sleep(self) -> None:
        """Do nothing: the server has its own GPU."""

    def wake_up(self) -> None:
        """Do nothing, as `sleep`."""

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Push weights from GPU to GPU over NCCL, then forget the server's cached prefixes.

        Every process of a training must call this; the first one pushes. Raises InputError if this process or the
        server cannot take part, EnvironmentFailureError if it breaks or takes longer than timeout_seconds.
        """
        from stages.engines.remote_weights import WeightPusher

        if self._pusher is None:
            self._pusher = WeightPusher(self._url, self.post, self._timeout_seconds)
        self._pusher.push(named_tensors)
        self._right_weights = True

    def close(self) -> None:
        """Close the connections; the server goes on."""
        if self._loop.is_closed():
            return
        self._start(self._client.aclose()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call that changes the server: made once, whatever happens."""
        return self._wait(self._post(path, body))

    def _check(self, request: GenerationRequest) -> None:
        check_request(request, self.max_model_tokens)
        if not self._right_weights:
            raise InputError(
                f"the server at {self._url} was started with {self._root}, not with {self._model_dir.resolve()}. "
                "Start it with that folder (`vllm serve FOLDER`), or set train.engine.kind to vllm or transformers."
            )

    def _start(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._start(work).result()

    async def _get(self, path: str) -> Any:
        for attempt in range(_TRIES):
            try:
                response = await self._client.get(path)
                await self._raise_for(response, path)
                return response.json()
            except (httpx.HTTPError, json.JSONDecodeError) as error:
                if attempt == _TRIES - 1 or isinstance(error, httpx.ReadTimeout):
                    raise self._broken(f"asking for {path}", error) from error
                await asyncio.sleep(0.2 * 2**attempt)
        raise AssertionError

    async def _post(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = await self._client.post(path, json=body)
            await self._raise_for(response, path)
            return dict(response.json()) if response.content else {}
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise self._broken(f"calling {path}", error) from error

    async def _complete(self, request: GenerationRequest) -> list[Completion]:
        body = {
            "model": self._name,
            "prompt": list(request.prompt_ids),
            "n": request.n,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": derive_seed(request.seed, "vllm") % 2**62,
            "stop": list(request.stop),
            "ignore_eos": True,
            "stop_token_ids": self._end_ids,
            "logprobs": 0,
            "return_token_ids": True,
            "stream": True,
        }
        for attempt in range(_TRIES):
            parts = [_Part() for _ in range(request.n)]
            try:
                async for event in self._events("/v1/completions", body):
                    for choice in event.get("choices", []):
                        parts[choice["index"]].add(choice)
                return [part.completion() for part in parts]
            except (httpx.HTTPError, _CutShortError, json.JSONDecodeError) as error:
                if attempt == _TRIES - 1 or isinstance(error, httpx.ReadTimeout):
                    raise self._broken("generating", error) from error
                await asyncio.sleep(0.2 * 2**attempt)
        raise AssertionError

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async with self._client.stream("POST", path, json=body) as response:
            await self._raise_for(response, path)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise EnvironmentFailureError(
                        f"the engine at {self._url} failed while generating: {event['error']}"
                    )
                yield event
        raise _CutShortError("the answer ended early")

    async def _raise_for(self, response: httpx.Response, path: str) -> None:
        if response.is_success:
            return
        text = (await response.aread()).decode(errors="replace")[:500]
        if response.status_code in (401, 403):
            raise ConfigError(f"the engine at {self._url} refuses the key: set {KEY_VARIABLE} to its --api-key.")
        if response.status_code == 404:
            raise ConfigError(
                f"{self._url} knows no {path}: {URL_VARIABLE} must be the address of a vLLM server, without /v1; weight "
                "updates need VLLM_SERVER_DEV_MODE=1 on the server."
            )
        if response.status_code < 500:
            raise InputError(f"the engine at {self._url} refuses {path}: {text}")
        raise EnvironmentFailureError(f"the engine at {self._url} failed at {path} ({response.status_code}): {text}")

    def _broken(self, phase: str, error: Exception) -> EnvironmentFailureError:
        if isinstance(error, httpx.ReadTimeout):
            what = f"has said nothing for {self._timeout_seconds:g} s while {phase}"
        else:
            what = f"cannot be reached or broke off while {phase} ({type(error).__name__}: {error})"
        return EnvironmentFailureError(
            f"the engine at {self._url} {what}. See whether the server lives, then run the stage again: it continues "
            "from its last checkpoint."
        )


class _CutShortError(Exception):
    """A stream ended before the answers did."""


@dataclass
class _Part:
    """One answer under way."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        self.token_ids += choice.get("token_ids") or []
        self.logprobs += (choice.get("logprobs") or {}).get("token_logprobs") or []
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def completion(self) -> Completion:
        if self.finish_reason is None:
            raise _CutShortError("the answer ended early")
        if self.finish_reason not in ("stop", "length"):
            raise EnvironmentFailureError(f"the remote engine ended a request with {self.finish_reason!r}.")
        if len(self.logprobs) != len(self.token_ids):
            raise EnvironmentFailureError(
                f"the remote engine sent {len(self.token_ids)} tokens with {len(self.logprobs)} log-probabilities."
            )
        reason: FinishReason = "stop" if self.finish_reason == "stop" else "length"
        return Completion(tuple(self.token_ids), tuple(self.logprobs), reason)
