"""Prompts that are too long: the middle of the documents is left out, never the question or the form of the answer.

The beginning and the end of a context stay, half of the room each, as LongBench v2 cuts its contexts.
"""

from __future__ import annotations

from collections.abc import Callable

from stages.common.fitting import CountTokens, longest_prefix, longest_suffix
from stages.common.prompts import full_context_messages
from stages.common.records import Sample
from stages.common.tokens import ChatTokenizer

CUT_MARK = "\n[...]\n"


def prompt_without_middle(
    sample: Sample, context: str, tokenizer: ChatTokenizer, max_input_tokens: int
) -> tuple[int, ...] | None:
    """Prompt ids of a sample; a context that is too long loses its middle.

    Returns None if the question alone has more than `max_input_tokens`.
    """

    def encode(text: str) -> tuple[int, ...]:
        return tokenizer.encode_chat(full_context_messages(sample, text))

    def count(text: str) -> int:
        return len(tokenizer.encode_text(text))

    return without_middle(encode, context, count, max_input_tokens)


def without_middle(
    encode: Callable[[str], tuple[int, ...]], context: str, count_tokens: CountTokens, max_input_tokens: int
) -> tuple[int, ...] | None:
    """`encode(context)`, or `encode` of its beginning and its end with a mark between, within `max_input_tokens`.

    Returns None if what `encode` puts around the context has more tokens than that.
    """
    prompt = encode(context)
    if len(prompt) <= max_input_tokens:
        return prompt
    room = max_input_tokens - len(encode(CUT_MARK))
    while room > 1:
        head = context[: longest_prefix(context, room - room // 2, count_tokens, slack_tokens=2)]
        tail = context[longest_suffix(context, room // 2, count_tokens) :]
        prompt = encode(head + CUT_MARK + tail)
        if len(prompt) <= max_input_tokens:
            return prompt
        room -= len(prompt) - max_input_tokens  # the parts joined have a few tokens more than each alone
    return None
