"""Any OpenAI-compatible chat endpoint as a RolloutEngine, so that API models go through the same evaluation and agent.

An endpoint takes messages, not ids. `encode_chat` therefore returns ids that remember the messages they were made of,
and a completion's ids remember their text; both only count tokens otherwise. Without a tokenizer a token counts as
three characters (ASCII English has about four).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stages.common.chat_client import OpenAIChat
from stages.common.rollouts import Completion, GenerationRequest
from stages.common.seeds import derive_seed
from stages.common.tokens import Message

if TYPE_CHECKING:
    import torch

CHARACTERS_PER_TOKEN = 3


class MessageIds(tuple[int, ...]):
    """Prompt ids with the messages they were made of."""

    messages: tuple[Message, ...]


class TextIds(tuple[int, ...]):
    """Ids of a reply with its text."""

    text: str


class EndpointTokenizer:
    """ChatTokenizer's interface for an endpoint.

    inner: a tokenizer that counts (best the model's own); None: characters are counted.
    continues_turns: False, since an endpoint cannot go on with a turn of the assistant that we began.
    """

    continues_turns = False
    pad_id = eos_id = 0

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    def encode_chat(self, messages: Sequence[Message], known: tuple[str, tuple[int, ...]] | None = None) -> MessageIds:
        """As many ids as the messages have tokens, with the messages. known: as ChatTokenizer's."""
        if self._inner is not None:
            ids = MessageIds(self._inner.encode_chat(messages, known))
        else:
            ids = MessageIds((0,) * sum(8 + _tokens(message["content"]) for message in messages))
        ids.messages = tuple(messages)
        return ids

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, or as many as it counts."""
        if self._inner is not None:
            return tuple(self._inner.encode_text(text))
        return (0,) * _tokens(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a reply."""
        assert isinstance(token_ids, TextIds), "only the ids of a reply have a text"
        return token_ids.text

    def decode_response(self, token_ids: Sequence[int]) -> str:
        """The same: what an endpoint returns holds its own `<think>`, if any."""
        return self.decode(token_ids)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


class EndpointEngine:
    """Implements RolloutEngine. Use it inside the `async with` of its client.

    chat: the client: cache, budget, retries, bounded concurrency.
    max_model_tokens: window of the model, as the user says.
    samples_apart: ask for n answers by n requests, so that one that fails does not take the others with it.

    Log-probabilities are not known: NaN.
    """

    samples_apart = True

    def __init__(self, chat: OpenAIChat, tokenizer: EndpointTokenizer, max_model_tokens: int) -> None:
        self.tokenizer: Any = tokenizer
        self.max_model_tokens = max_model_tokens
        self._chat = chat

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        """`request.n` completions, with a seed each. Raises ChatFailedError, EndpointError."""
        if request.n == 1:
            return [await self._complete(request, request.seed)]
        seeds = [derive_seed(request.seed, copy) for copy in range(request.n)]
        return list(await asyncio.gather(*(self._complete(request, seed) for seed in seeds)))

    async def _complete(self, request: GenerationRequest, seed: int) -> Completion:
        assert isinstance(request.prompt_ids, MessageIds), "prompts of an endpoint are made by its tokenizer"
        reply = await self._chat.complete(
            request.prompt_ids.messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=seed,
            top_p=request.top_p,
        )
        ids = TextIds((0,) * reply.usage.completion_tokens)
        ids.text = reply.text
        return Completion(ids, (float("nan"),) * len(ids), reply.finish_reason)

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Not possible: the client lives in one event loop."""
        raise NotImplementedError("an endpoint is asked with `await engine.generate(request)`")

    def sleep(self) -> None:
        """Nothing is held."""

    def wake_up(self) -> None:
        """Nothing was given back."""

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """An endpoint has its own weights."""
        raise NotImplementedError("the weights of an endpoint cannot be changed")

    def close(self) -> None:
        """The client is closed by its `async with`."""
