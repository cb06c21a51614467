"""An engine without a model: a function writes the answers. For tests, and to try a prompt flow without weights.

    engine = ScriptedEngine(lambda prompt, request, index: "42" if "answer" in prompt else "unknown")

It keeps the contract of RolloutEngine in full (lengths, stop strings, end token, shared batches) and counts its use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stages.common.rollouts import Completion, GenerationRequest
from stages.common.tokens import Message
from stages.engines.requests import RequestQueue, check_request

if TYPE_CHECKING:
    import torch

Script = Callable[[str, GenerationRequest, int], str]

# Every scripted token was "certain by half": a fixed value that is visibly not a model's.
_LOGPROB = -0.6931471805599453


class ByteTokenizer:
    """A tokenizer of 258 ids with ChatTokenizer's interface: UTF-8 bytes, then a pad and an end token."""

    pad_id = 256
    eos_id = 257

    def encode_chat(
        self, messages: Sequence[Message], _known: tuple[str, tuple[int, ...]] | None = None
    ) -> tuple[int, ...]:
        """Each message as a line with its role and its content, then the opening of the assistant's turn."""
        text = "".join(f"<{message['role']}>\n{message['content']}\n" for message in messages)
        return self.encode_text(text + "<assistant>\n")

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The text's UTF-8 bytes."""
        return tuple(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids; pad and end are left out, a cut character becomes U+FFFD."""
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")

    def decode_response(self, token_ids: Sequence[int]) -> str:
        """The same: no prompt of this tokenizer opens a reasoning block."""
        return self.decode(token_ids)


class ScriptedEngine:
    """Implements RolloutEngine.

    script: (prompt text, request, index of the completion) -> answer. Must be a pure function.
    tokenizer: any object with ChatTokenizer's encode_text, decode and eos_id.
    keep_requests: False: `requests` stays empty, so that memory does not grow.

    calls: batches run; requests: those answered; loads: how often weights were given; awake, closed.
    """

    def __init__(
        self, script: Script, tokenizer: Any = None, max_model_tokens: int = 1_000_000, keep_requests: bool = True
    ) -> None:
        self.tokenizer = tokenizer if tokenizer is not None else ByteTokenizer()
        self.max_model_tokens = max_model_tokens
        self.calls = 0
        self.requests: list[GenerationRequest] = []
        self.loads = 0
        self.awake = True
        self.closed = False
        self._script = script
        self._keep_requests = keep_requests
        self._queue = RequestQueue(self.generate_all)

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return `request.n` completions; waiting requests of other coroutines share the call."""
        check_request(request, self.max_model_tokens)
        return await self._queue.submit(request)

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Answer all requests, in order. InputError if one is too long."""
        assert self.awake, "generate_all after sleep: call wake_up first"
        assert not self.closed, "generate_all after close"
        for request in requests:
            check_request(request, self.max_model_tokens)
        self.calls += 1
        if self._keep_requests:
            self.requests.extend(requests)
        return [[self._complete(request, index) for index in range(request.n)] for request in requests]

    def _complete(self, request: GenerationRequest, index: int) -> Completion:
        text = self._script(self.tokenizer.decode(request.prompt_ids), request, index)
        ends = [text.find(stop) + len(stop) for stop in request.stop if stop in text]
        if ends:
            text = text[: min(ends)]
        ids = tuple(self.tokenizer.encode_text(text))
        if not ends:
            ids = (*ids, self.tokenizer.eos_id)
        cut = ids[: request.max_tokens]
        return Completion(cut, (_LOGPROB,) * len(cut), "stop" if len(ids) <= request.max_tokens else "length")

    def sleep(self) -> None:
        """Only noted."""
        self.awake = False

    def wake_up(self) -> None:
        """Undo `sleep`."""
        self.awake = True

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Read the tensors through, as an engine would, and count."""
        for _ in named_tensors:
            pass
        self.loads += 1

    def close(self) -> None:
        """The engine cannot be used afterwards."""
        self.closed = True
