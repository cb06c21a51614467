r"""How a conversation is answered: in one pass if it fits into the window, else read by the memory agent.

For the agent a conversation is a document and a question. The question is the last text of the last message (its last
text part, if it has several). A text too long to be a question is a document with the question as its last paragraph.
Everything before it, in order, is the document; short system messages tell the form of the answer instead.

    system     Answer in one word.            -> form of the answer
    user       <a book>                       -> document
    assistant  Read.                          -> document
    user       <a report>\n\nWho signed it?   -> document, question
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jinja2.exceptions import TemplateError

from flows.serve_api import ChatCall, ChatMessage
from flows.serve_errors import ApiError, bad_request
from stages.common.errors import InputError
from stages.common.tokens import ChatTokenizer
from stages.memory.prompts import defuse
from stages.memory.window import AgentLengths, check_window

_MOST_CHARACTERS_PER_TOKEN = 32  # no tokenizer needs so few tokens: a longer text need not be counted
_ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
_FORM = "If the memory does not hold the answer, say so."


@dataclass(frozen=True)
class OnePass:
    """The conversation fits."""

    prompt_ids: tuple[int, ...]
    answer_tokens: int


@dataclass(frozen=True)
class Reading:
    """The conversation as the memory agent takes it. instruction: the form of the answer."""

    question: str
    document: str
    instruction: str
    answer_tokens: int


Plan = OnePass | Reading


class Planner:
    """Decides, and refuses what fits neither way. Not for several threads at once.

    tokenizer: of the model, one of its own: the engine's is in use meanwhile. lengths: the agent's, its answer the
    default of max_tokens. most_answer_tokens: bound of max_tokens.
    """

    def __init__(self, tokenizer: Any, window: int, lengths: AgentLengths, most_answer_tokens: int) -> None:
        self._tokenizer: ChatTokenizer = tokenizer
        self._window = window
        self._lengths = lengths
        self._most_answer_tokens = most_answer_tokens
        self._question_tokens = window // 8

    def plan(self, call: ChatCall) -> Plan:
        """Raises ApiError with status 400, with the numbers, for what cannot be answered."""
        answer_tokens = self._lengths.answer if call.max_tokens is None else call.max_tokens
        if answer_tokens > self._most_answer_tokens:
            raise bad_request(
                f"max_tokens {answer_tokens} is over this server's {self._most_answer_tokens}.",
                "max_tokens",
                "invalid_value",
            )
        if call.mode == "agent":
            return self._reading(call, answer_tokens)
        characters = sum(len(text) for message in call.messages for text in message.texts)
        counted = f"over {characters // _MOST_CHARACTERS_PER_TOKEN}"
        if characters <= _MOST_CHARACTERS_PER_TOKEN * self._window:
            prompt = self._encode(call.messages)
            if len(prompt) + answer_tokens <= self._window:
                return OnePass(prompt, answer_tokens)
            counted = str(len(prompt))
        if call.mode == "one_pass":
            raise bad_request(
                f"the messages are {counted} tokens, with {answer_tokens} for the answer more than the model's window of "
                f"{self._window}. Leave longfuse.mode out: the memory agent reads conversations of any length.",
                "messages",
                "context_length_exceeded",
            )
        return self._reading(call, answer_tokens)

    def _encode(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """The whole conversation by the model's chat template; texts cannot open its special tokens."""
        plain = [
            {"role": message.role, "content": "\n\n".join(message.texts).replace("<|", "‹|")} for message in messages
        ]
        try:
            return self._tokenizer.encode_chat(plain)
        except TemplateError as error:
            raise bad_request(f"the model's chat template refuses these messages: {error}.", "messages") from None

    def _reading(self, call: ChatCall, answer_tokens: int) -> Reading:
        *earlier, last = call.messages
        instructions, parts = [], []
        for message in earlier:
            text = "\n\n".join(message.texts)
            if message.role == "system" and self._is_short(text, self._window // 16):
                instructions.append(text.strip())
            elif text.strip():
                parts.append(f"{_ROLE_NAMES[message.role]}:\n{text}")
        before, question = self._split(last, alone=not parts)
        reading = Reading(question, "\n\n".join([*parts, *before]), "\n".join([*instructions, _FORM]), answer_tokens)
        if not reading.document.strip():
            raise bad_request("there is nothing to read beside the question: put a text before it.", "messages")
        lengths = AgentLengths(
            chunk=self._lengths.chunk,
            memory=self._lengths.memory,
            plan=self._lengths.plan,
            turn=self._lengths.turn,
            answer=answer_tokens,
        )
        engine: Any = SimpleNamespace(tokenizer=self._tokenizer, max_model_tokens=self._window)
        try:
            check_window(lengths, engine, defuse(question), defuse(reading.instruction))
        except InputError as error:
            raise bad_request(str(error), "messages", "context_length_exceeded") from None
        return reading

    def _split(self, message: ChatMessage, alone: bool) -> tuple[list[str], str]:
        """The texts before the question, and the question. alone: there is no document in other messages."""
        *before, text = [text for text in message.texts if text.strip()]
        is_short = self._is_short(text, self._question_tokens)
        if is_short and (before or not alone or "\n\n" not in text.strip()):
            return before, text.strip()
        document, gap, question = text.rstrip().rpartition("\n\n")
        if not gap or not self._is_short(question, self._question_tokens):
            raise _no_question(self._question_tokens)
        return [*before, document], question.strip()

    def _is_short(self, text: str, limit_tokens: int) -> bool:
        if len(text) > _MOST_CHARACTERS_PER_TOKEN * limit_tokens:
            return False
        return len(self._tokenizer.encode_text(text)) <= limit_tokens


def _no_question(limit_tokens: int) -> ApiError:
    return bad_request(
        f"no question was found: the last message is longer than a question ({limit_tokens} tokens) and does not end with "
        "a short paragraph. Put the question behind the text, after a blank line, or into a message of its own.",
        "messages",
        "context_length_exceeded",
    )
