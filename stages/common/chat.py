"""Talking to a language model behind an address: the nouns, and the one interface that stages use.

`OpenAIChat` (chat_client.py) speaks to any OpenAI-compatible endpoint; `open_chat` (chat_access.py) builds it from
params.yaml. Whatever an endpoint does wrong (silence, garbage, floods, cut-off text) is a `ChatFailedError` with a reason
that callers count; it never ends a stage. What the user must mend (a wrong key, an unknown model) is an `EndpointError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from stages.common.errors import LongfuseError, UserError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
FinishReason = Literal["stop", "length"]
FailureReason = Literal[
    "timeout",  # no whole reply in time
    "unreachable",  # no connection, or one that broke
    "rate_limited",  # 429 until we gave up
    "server_error",  # 5xx until we gave up
    "refused",  # this request was refused (400, content filter)
    "oversized",  # a reply larger than allowed
    "malformed",  # not what was asked for: no JSON, wrong fields
    "truncated",  # the reply ran into its token limit
    "budget",  # the stage's token or money budget is used up
]


class ChatFailedError(LongfuseError):
    """One call came to nothing. `reason` is counted by the caller; the message holds no key."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        self.reason: FailureReason = reason
        super().__init__(f"{reason}: {detail}")


class EndpointError(UserError):
    """The endpoint refuses every call for a reason that the user can mend: key, model name, address."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one call, as the endpoint counts them (estimated where it does not say)."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class ChatReply:
    """What the model said. cached: it was read from disk, nothing was asked."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    cached: bool = False


class ChatModel(Protocol):
    """A model that answers messages."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        response_schema: Mapping[str, Any] | None = None,
    ) -> ChatReply:
        """The model's reply. response_schema: JSON schema that the reply shall follow (a wish: check the reply).

        Raises ChatFailedError if this call came to nothing, EndpointError if every call would.
        """
        ...
