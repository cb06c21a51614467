"""From a question to prompt ids within a budget, and from a response to the part of it that is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import InputError
from stages.common.tokens import ChatTokenizer, Message
from stages.common.truncation import without_middle
from stages.evaluation.base import Context

_THINK, _THINK_END = "<think>", "</think>"


@dataclass(frozen=True)
class FittedPrompt:
    """Prompt ids; context_cut: the middle of the context was left out."""

    ids: tuple[int, ...]
    context_cut: bool


def fit_prompt(
    make: Callable[[str], Sequence[Message]],
    context: str,
    tokenizer: ChatTokenizer,
    max_input_tokens: int,
    answer_prefix: str = "",
) -> FittedPrompt | None:
    """The prompt, its context cut in the middle if it is too long (as LongBench v2 does), never the question.

    None if what stands around the context alone has more than `max_input_tokens`.
    """
    whole = True

    def encode(text: str) -> tuple[int, ...]:
        nonlocal whole
        whole = text == context
        return encode_with_prefix(tokenizer, make(text), answer_prefix)

    ids = without_middle(encode, context, lambda text: len(tokenizer.encode_text(text)), max_input_tokens)
    return None if ids is None else FittedPrompt(ids, not whole)


def encode_with_prefix(tokenizer: ChatTokenizer, messages: Sequence[Message], prefix: str) -> tuple[int, ...]:
    """Prompt ids, the assistant's turn begun with `prefix`; it ends the user's message where a turn cannot be begun."""
    if not prefix:
        return tokenizer.encode_chat(messages)
    if getattr(tokenizer, "continues_turns", True):
        return (*tokenizer.encode_chat(messages), *tokenizer.encode_text(prefix))
    last = {**messages[-1], "content": f"{messages[-1]['content']}\n{prefix.strip()}"}
    return tokenizer.encode_chat([*messages[:-1], last])


def context_text(context: Context) -> str:
    """A context as text. InputError if its file cannot be read."""
    if isinstance(context, str):
        return context
    try:
        return context.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the context {context} cannot be read: {error}. Make it again.") from None


def answer_part(response: str) -> str | None:
    r"""What is scored: the text after the last `</think>`, or the whole response, which is not stripped.

    None if there is nothing to score: reasoning that was never closed, or blanks.

    >>> answer_part("<think>hm</think>\n\n42 ")
    '42 '
    """
    if _THINK_END in response:
        response = response.rsplit(_THINK_END, 1)[1].lstrip("\r\n")
    elif _THINK in response:
        return None
    return response if response.strip() else None


def context_length(context: Context) -> int:
    """Characters of a context (bytes of a file): enough to sort questions into batches."""
    return context.stat().st_size if isinstance(context, Path) else len(context)
