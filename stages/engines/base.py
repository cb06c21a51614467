"""The seam between the project and whatever generates text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from stages.common.rollouts import Completion, GenerationRequest

if TYPE_CHECKING:
    import torch

    from stages.common.tokens import ChatTokenizer


@runtime_checkable
class RolloutEngine(Protocol):
    """Generates completions. Concurrent requests share the engine's batch.

    tokenizer: the tokenizer that belongs to the weights.
    max_model_tokens: prompt plus completion that one request may hold.
    """

    tokenizer: ChatTokenizer
    max_model_tokens: int

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return `request.n` completions. Deterministic for (weights, request)."""
        ...

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Generate for all requests, results in order (synchronous)."""
        ...

    def sleep(self) -> None:
        """Free what generation holds (KV cache, on GPU engines the weights) while the trainer works."""
        ...

    def wake_up(self) -> None:
        """Undo `sleep`."""
        ...

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take new weights, named as in the model's state dict."""
        ...

    def close(self) -> None:
        """Free everything; the engine cannot be used afterwards."""
        ...
