"""What the engines share: checking requests, one row of a batch, batches by length, the queue of waiting coroutines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stages.common.errors import InputError
from stages.common.rollouts import Completion, FinishReason, GenerationRequest
from stages.common.seeds import derive_seed

if TYPE_CHECKING:
    import torch


class Decoder(Protocol):
    """Turns ids into text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens removed."""
        ...


def check_request(request: GenerationRequest, max_model_tokens: int) -> None:
    """InputError if the request asks for something that cannot be generated, with the numbers."""
    prompt_tokens = len(request.prompt_ids)
    if prompt_tokens == 0:
        raise InputError("a request has an empty prompt. Give at least one token.")
    if request.n < 1 or request.max_tokens < 1:
        raise InputError(f"n = {request.n} and max_tokens = {request.max_tokens} must be at least 1.")
    if not request.temperature >= 0 or not 0 < request.top_p <= 1:
        raise InputError(
            f"temperature = {request.temperature} must be at least 0 and top_p = {request.top_p} in (0, 1]."
        )
    if prompt_tokens + request.max_tokens > max_model_tokens:
        raise InputError(
            f"prompt of {prompt_tokens} tokens plus max_tokens {request.max_tokens} is "
            f"{prompt_tokens + request.max_tokens}, over the model's {max_model_tokens} tokens. "
            "Shorten the input or lower the output length (max_input_tokens, max_output_tokens)."
        )


def end_ids(model_dir: Path, tokenizer: Any) -> list[int]:
    """Every id that ends an answer: the tokenizer's and those of generation_config.json (one or several)."""
    path = model_dir / "generation_config.json"
    declared = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return sorted({tokenizer.eos_id, *listed})


class Row:
    """One completion under way: its tokens so far, its random generator, how it ended."""

    def __init__(self, request: GenerationRequest, copy: int) -> None:
        import torch

        self.request = request
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.generator: torch.Generator = torch.Generator().manual_seed(derive_seed(request.seed, copy))
        # A stop string of b bytes ends within the last b tokens; some more, so that words decode whole.
        self._tail_tokens = max((len(stop.encode()) for stop in request.stop), default=0) + 4

    @property
    def next_position(self) -> int:
        """Position of the last generated token, which is fed next."""
        return len(self.request.prompt_ids) + len(self.token_ids) - 1

    def append(self, token: int, logprob: float, end_ids: frozenset[int], decoder: Decoder) -> None:
        """Add a token, unless the row has ended already."""
        if self.finish_reason is not None:
            return
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if token in end_ids or self._stops(decoder):
            self.finish_reason = "stop"
        elif len(self.token_ids) == self.request.max_tokens:
            self.finish_reason = "length"

    def _stops(self, decoder: Decoder) -> bool:
        if not self.request.stop:
            return False
        tail = decoder.decode(self.token_ids[-self._tail_tokens :])
        return any(stop in tail for stop in self.request.stop)

    def completion(self) -> Completion:
        """The finished answer."""
        assert self.finish_reason is not None
        return Completion(tuple(self.token_ids), tuple(self.logprobs), self.finish_reason)


def pack_batches(
    requests: Sequence[GenerationRequest], max_batch_tokens: int, batch_groups: bool = False
) -> list[list[int]]:
    """Indices of the requests of each batch. Depends on the list alone.

    A group (n > 1) is alone unless `batch_groups`; the others are sorted by length, so that little is padded, and
    packed while rows x (longest prompt + longest answer) stays within `max_batch_tokens`.
    """
    batches = [[index] for index, request in enumerate(requests) if request.n > 1 and not batch_groups]
    shared = [index for index, request in enumerate(requests) if request.n == 1 or batch_groups]
    shared.sort(key=lambda index: (-len(requests[index].prompt_ids), -requests[index].max_tokens))
    current: list[int] = []
    rows = columns = answer = 0
    for index in shared:
        request = requests[index]
        rows += request.n
        columns = max(columns, len(request.prompt_ids))
        answer = max(answer, request.max_tokens)
        if current and rows * (columns + answer) > max_batch_tokens:
            batches.append(current)
            current, rows, columns, answer = [], request.n, len(request.prompt_ids), request.max_tokens
        current.append(index)
    return [*batches, current] if current else batches


class RequestQueue:
    """Gathers the requests of all coroutines that are ready, then runs them in one call, in the same thread.

    The call is made once the event loop has gone round without a new request: every coroutine that could ask has
    asked. Which requests share a call depends on the coroutines only, not on time.
    """

    def __init__(self, run: Callable[[Sequence[GenerationRequest]], list[list[Completion]]]) -> None:
        self._run = run
        self._waiting: list[tuple[GenerationRequest, asyncio.Future[list[Completion]]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # where a flush is scheduled

    async def submit(self, request: GenerationRequest) -> list[Completion]:
        """Wait for the completions of a request."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Completion]] = loop.create_future()
        if self._loop is not loop:  # the first request, or those of a loop that has died
            self._waiting.clear()
            self._loop = loop
            loop.call_soon(self._flush, 0)
        self._waiting.append((request, future))
        return await future

    def _flush(self, seen: int) -> None:
        if len(self._waiting) > seen and self._loop is not None:
            self._loop.call_soon(self._flush, len(self._waiting))
            return
        waiting = [(request, future) for request, future in self._waiting if not future.done()]
        self._waiting.clear()
        self._loop = None
        if not waiting:
            return
        try:
            results = self._run([request for request, _ in waiting])
        except BaseException as error:  # noqa: BLE001  handed to everyone who waits; the loop would swallow a signal's
            for _, future in waiting:
                future.set_exception(error)
            return
        for (_, future), completions in zip(waiting, results, strict=True):
            future.set_result(completions)
