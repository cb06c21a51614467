"""What the agents of self-evolution share: a candidate, what came out so far, one typed call, one phase of calls.

A failed call is a value, not an exception: phases go on, and the caller counts the drop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

from stages.common.chat import ChatFailedError, ChatModel, Message
from stages.common.chat_breaker import SILENT
from stages.common.chat_json import reply_as
from stages.common.errors import EnvironmentFailureError
from stages.common.records import AnswerKind, Dropped, Evidence, QAPair
from stages.synthesis.self_evolve_prompts import Excerpt

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)

STAGE = "synthesize@reading_comprehension"
_SILENT_CALLS = 4  # so many failed calls and no reply in a phase: nobody is there
_KEPT_DROPS = 2_000


@dataclass(frozen=True)
class Candidate:
    """A proposal that the programs let through."""

    family: str
    cluster: int
    level: int
    question: str
    answer: str
    kind: AnswerKind
    evidence: tuple[Evidence, ...]
    excerpts: tuple[Excerpt, ...]


@dataclass
class Evolution:
    """What came out. counts: calls and outcomes by name; rounds: verified questions per round."""

    pairs: list[QAPair] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rounds: list[int] = field(default_factory=list)

    def drop(self, reason: str, detail: str, record: Mapping[str, Any]) -> None:
        """Count a drop; the first ones are kept to be looked at."""
        self.counts[reason] += 1
        if len(self.dropped) < _KEPT_DROPS:
            self.dropped.append(Dropped(reason=reason, stage=STAGE, detail=detail[:300], record=dict(record)))

    def drop_failed(self, role: str, error: ChatFailedError, record: Mapping[str, Any]) -> None:
        """Count a call that came to nothing. What the endpoint said goes to the log: it may hold times and ids."""
        log.info("%s: %s", role, error)
        self.drop(f"{role}_{error.reason}", f"the call of the {role} failed", record)


async def ask(
    chat: ChatModel,
    messages: Sequence[Message],
    record: type[R],
    schema: Mapping[str, Any],
    max_tokens: int,
    temperature: float,
    seed: int,
) -> R:
    """The reply as a record. Raises ChatFailedError (also for a reply that is none), EndpointError."""
    reply = await chat.complete(
        messages, max_tokens=max_tokens, temperature=temperature, seed=seed, response_schema=schema
    )
    return reply_as(reply, record)


async def phase(
    role: str, call: Callable[[Any], Awaitable[T]], items: Sequence[Any], evolution: Evolution
) -> list[T | ChatFailedError]:
    """All calls of a phase, side by side, results in order; failures in their places.

    EnvironmentFailureError if several calls were made and nobody answered.
    """

    async def one(item: Any) -> T | ChatFailedError:
        try:
            return await call(item)
        except ChatFailedError as error:
            return error

    results = await asyncio.gather(*(one(item) for item in items))
    evolution.counts[f"{role}_calls"] += len(items)
    failures = [result for result in results if isinstance(result, ChatFailedError)]
    if len(failures) >= _SILENT_CALLS and len(failures) == len(items) and all(f.reason in SILENT for f in failures):
        raise EnvironmentFailureError(
            f"the {role}'s endpoint did not answer any of {len(items)} calls ({failures[0]}). Finished calls are kept: "
            "run again when it is back, or set endpoints.writer.model to null."
        )
    return results


def record_of(candidate: Candidate) -> dict[str, Any]:
    """What is kept of a dropped candidate."""
    return {"question": candidate.question, "answer": candidate.answer, "family": candidate.family}
