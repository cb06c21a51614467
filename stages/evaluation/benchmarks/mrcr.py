"""MRCR v1 (openai/mrcr): repeat the i-th of several equal requests' replies, after a random string, word for word.

Official score: 0 unless the response begins with the string; else SequenceMatcher's ratio of the rest. Rows of the data
set are read as they are; without them `mrcr_made` makes such rows of a corpus, and `dialogue_recall` asks for turns of its
own conversations.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from stages.common.tokens import Message
from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.rows import questions_of
from stages.evaluation.sources import RowSource
from stages.rewards.rules import sequence_match_ratio

_SOURCE = RowSource(folders=("mrcr",), patterns=("*.parquet", "*.jsonl"), hub="openai/mrcr", split="train")
_ROLES = {"User: ": "user", "Assistant: ": "assistant"}
_SEPARATOR = "\n\x1e"  # between turns, so that a transcript can be cut anywhere and still be split into turns
_CHARACTERS_PER_TOKEN = 3


def _transcript(messages: list[Message]) -> str:
    return _SEPARATOR.join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


def _prompt(request: Message, context: str) -> list[Message]:
    """The turns of the transcript as messages; a turn whose beginning was cut away belongs to the assistant."""
    messages: list[Message] = []
    for turn in context.split(_SEPARATOR):
        mark = next((mark for mark in _ROLES if turn.startswith(mark)), None)
        if mark is not None:
            messages.append({"role": _ROLES[mark], "content": turn.removeprefix(mark)})
        elif turn.strip():
            messages.append({"role": "assistant", "content": turn})
    return [*messages, request]


def _parse(number: dict[str, int], row: dict[str, Any]) -> Question:
    number["row"] += 1
    return parse_row(row, number["row"])


def parse_row(row: dict[str, Any], number: int) -> Question:
    """A row in the published form. number: names it where it has no id. ValueError or KeyError if it is none."""
    messages = json.loads(row["prompt"]) if isinstance(row["prompt"], str) else row["prompt"]
    *turns, last = [{"role": str(message["role"]), "content": str(message["content"])} for message in messages]
    prefix, answer = row["random_string_to_prepend"], row["answer"]
    if not prefix or not answer.startswith(prefix):
        raise ValueError("the answer does not begin with the random string")
    needles = str(row["n_needles"])
    return Question(
        benchmark=f"mrcr/{needles}_needles",
        id=str(row.get("id") or f"{prefix}-{number}"),
        task_type="dialogue_memory",
        question=last["content"],
        answer_form="",
        gold=answer,
        context=partial(_transcript, turns),
        prompt=partial(_prompt, last),
        metric="sequence_match_ratio",
        score=partial(sequence_match_ratio, gold=answer, prefix=prefix),
        answer_tokens=64 + len(answer) // _CHARACTERS_PER_TOKEN,
        groups={"characters": _bin(int(row.get("n_chars") or sum(len(turn["content"]) for turn in turns)))},
    )


def _bin(characters: int) -> str:
    """Length bin by powers of two, of about four characters a token."""
    tokens, low = characters // 4, 4096
    while tokens > 2 * low:
        low *= 2
    return f"{low // 1024}K-{2 * low // 1024}K tokens" if tokens >= 4096 else "under 4K tokens"


def _load(request: LoadRequest) -> Loaded:
    rows, broken = _SOURCE.rows(request)
    return questions_of(rows, partial(_parse, {"row": 0}), broken, request.limit)


MRCR = Benchmark(
    name="mrcr",
    title="MRCR v1: the i-th of 2, 4 or 8 equal requests, 4K to 1M tokens",
    source="hub openai/mrcr (MIT)",
    available=_SOURCE.available,
    load=_load,
)
