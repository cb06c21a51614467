"""Does the agent fit into the model's window? Said before anything is generated, with the numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stages.common.errors import InputError
from stages.engines.base import RolloutEngine
from stages.memory.prompts import answer_messages, update_messages

_JOIN_TOKENS = 16  # parts counted alone may have a few tokens more when joined


@dataclass(frozen=True, kw_only=True)
class AgentLengths:
    """The agent's lengths in tokens; names as in MemoryAgent, less `_tokens`."""

    chunk: int
    memory: int
    plan: int
    turn: int
    answer: int

    def __post_init__(self) -> None:
        """InputError for a length below 1."""
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"{name}_tokens must be at least 1, not {value}.")


def check_window(lengths: AgentLengths, engine: RolloutEngine, question: str, format_instruction: str) -> None:
    """InputError if the longest possible prompt of a turn, or of the answer, does not fit with its output."""
    encode = engine.tokenizer.encode_chat
    window = engine.max_model_tokens
    form = len(encode(update_messages("", "", "", "", 1))) + _JOIN_TOKENS
    asked = len(encode(update_messages(question, "", "", "", 1))) + _JOIN_TOKENS - form
    turn_total = form + asked + lengths.chunk + lengths.memory + lengths.plan + lengths.turn
    if turn_total > window:
        raise InputError(
            f"a turn of the memory agent needs {turn_total} tokens (form {form}, question {asked}, chunk_tokens "
            f"{lengths.chunk}, memory_tokens {lengths.memory}, plan {lengths.plan}, turn_tokens {lengths.turn}), "
            f"the model's window has {window}. "
            f"Lower chunk_tokens by {turn_total - window}, or shorten the question."
        )
    final = len(encode(answer_messages(question, "", format_instruction))) + _JOIN_TOKENS
    answer_total = final + lengths.memory + lengths.answer
    if answer_total > window:
        raise InputError(
            f"the memory agent's answer needs {answer_total} tokens (form and question {final}, memory_tokens "
            f"{lengths.memory}, answer_tokens {lengths.answer}), the model's window has {window}. "
            "Lower answer_tokens or memory_tokens, or shorten the question."
        )
