"""A question of a benchmark, what a model made of it, and the prompt in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stages.common.errors import InputError
from stages.common.fitting import longest_prefix, longest_suffix
from stages.common.prompts import full_context_messages
from stages.common.records import AnswerKind, Record, Sample
from stages.common.tokens import ChatTokenizer

Mode = Literal["full_context", "agent"]

CUT_MARK = "\n[...]\n"

# Metric by kind of answer; a task type with several kinds is scored by "rule_score". The first three are 0 or 1.
METRICS = {
    AnswerKind.TEXT: "cover_exact_match",
    AnswerKind.NUMBER: "numeric_match",
    AnswerKind.LETTER: "accuracy",
    AnswerKind.SEQUENCE: "sequence_match_ratio",
    AnswerKind.SET: "set_f1",
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question in one mode.

    benchmark: e.g. `heldout/numerical`, `needle/512`.
    sample: question, options, gold answer and its kind; the prompts are those of training.
    metric: equal for all questions of a benchmark.
    context: makes the text that is read; called when the question is asked, so that contexts are not all in memory.
    score: a response -> [0, 1].
    evidence_position: where the first evidence begins in the context, 0 to 1; None if there is none.
    """

    benchmark: str
    mode: Mode
    sample: Sample
    context: Callable[[], str]
    metric: str
    score: Callable[[str], float]
    evidence_position: float | None


class Prediction(Record):
    """One line of predictions.jsonl. Tokens of agent mode are those of all turns."""

    benchmark: str
    mode: Mode
    sample_id: str
    task_type: str
    question: str
    gold: str | list[str]
    prediction: str
    score: float
    prompt_tokens: int
    response_tokens: int
    evidence_position: float | None


def full_context_prompt(
    sample: Sample, context: str, tokenizer: ChatTokenizer, max_input_tokens: int
) -> tuple[int, ...]:
    """Prompt ids; a context that is too long loses its middle, never the question (middle truncation, LongBench v2).

    Raises InputError if the question alone has more than `max_input_tokens`.
    """

    def encode(text: str) -> tuple[int, ...]:
        return tokenizer.encode_chat(full_context_messages(sample, text))

    def count(text: str) -> int:
        return len(tokenizer.encode_text(text))

    prompt = encode(context)
    if len(prompt) <= max_input_tokens:
        return prompt
    room = max_input_tokens - len(encode(CUT_MARK))
    while room > 1:
        head = context[: longest_prefix(context, room - room // 2, count, slack_tokens=2)]
        tail = context[longest_suffix(context, room // 2, count) :]
        prompt = encode(head + CUT_MARK + tail)
        if len(prompt) <= max_input_tokens:
            return prompt
        room -= len(prompt) - max_input_tokens  # the parts joined have a few tokens more than each alone
    raise InputError(
        f"question {sample.id} has {len(encode(''))} tokens without any context, "
        f"evaluate.shared.max_input_tokens is {max_input_tokens}. Raise it."
    )
