"""Reasoning from a stronger model behind an endpoint, kept only where its answer is right (rejection sampling).

The teacher gets the same prompt as the model in training, and is asked to reason before it answers. A reply counts if the
rule reward of its answer is 1; the first that does is used. Replies are cached by the chat client, so a killed stage asks
nothing twice. Where every attempt was wrong or failed, the caller falls back to the sample's proof.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence

from stages.common.chat import ChatFailedError, ChatModel
from stages.common.prompts import full_context_messages, materialise_context
from stages.common.records import Sample
from stages.common.seeds import derive_seed
from stages.common.storage import DocumentStore
from stages.rewards.hybrid import reward
from stages.sft.traces import defuse

logger = logging.getLogger(__name__)

INSTRUCTION = (
    "\n\nFirst reason step by step, quoting from the documents what you use. "
    "Then write the answer alone on the last line, after the words: The answer is"
)
_ANSWER = re.compile(r"(?:^|\n)[^\n]*\bthe answer is\b[^\n]*\s*$", re.IGNORECASE)


async def teacher_traces(
    chat: ChatModel,
    samples: Sequence[Sample],
    documents: DocumentStore,
    *,
    attempts: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Mapping[str, str]:
    """Reasoning by sample id, for the samples that the teacher got right. Raises EndpointError if it refuses all calls."""
    traces = await asyncio.gather(
        *(
            _one(chat, sample, documents, attempts, max_tokens, temperature, derive_seed(seed, "teacher", sample.id))
            for sample in samples
        )
    )
    found = {sample.id: trace for sample, trace in zip(samples, traces, strict=True) if trace}
    logger.info("the teacher's reasoning is used for %d of %d samples", len(found), len(samples))
    return found


async def _one(
    chat: ChatModel,
    sample: Sample,
    documents: DocumentStore,
    attempts: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> str | None:
    (message,) = full_context_messages(sample, materialise_context(sample, documents))
    messages = [{**message, "content": message["content"] + INSTRUCTION}]
    for attempt in range(attempts):
        try:
            reply = await chat.complete(
                messages, max_tokens=max_tokens, temperature=temperature, seed=derive_seed(seed, attempt)
            )
        except ChatFailedError as error:
            if error.reason == "budget":
                return None
            continue
        if reply.finish_reason == "stop" and reward(sample, reply.text) == 1.0:
            return defuse(reasoning_of(reply.text)) or None
    return None


def reasoning_of(text: str) -> str:
    """A reply without its last line's answer, think tags removed."""
    text = re.sub(r"</?think>", "\n", text)
    return _ANSWER.sub("", text.strip()).strip()
