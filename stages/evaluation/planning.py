"""What is asked, in which order, and which questions share a batch.

On one machine the shapes of a batch decide the last bits of its results. So the batches ("units") are cut from the list
of questions alone: what was answered before a kill changes nothing about the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import InputError
from stages.evaluation.base import Mode, Question
from stages.evaluation.config import AskSettings
from stages.evaluation.prompting import context_length

Key = tuple[str, str, str]  # benchmark, mode, id

_UNIT_QUESTIONS = 32
_UNIT_TOKENS = 32_768  # rows x columns of a batch, as TransformersEngine packs them
_UNIT_TRAJECTORIES = 8
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Planned:
    """A question in a mode. content: hash of all that the benchmark puts into it; characters: of its context."""

    question: Question
    mode: Mode
    content: str
    characters: int

    @property
    def key(self) -> Key:
        return (self.question.benchmark, self.mode, self.question.id)


def plan(question: Question, mode: Mode) -> Planned:
    """The question with the hash of its content; makes its context once. InputError if that cannot be read."""
    digest = hashlib.sha256()
    context = "" if mode == "closed_book" else question.context()
    parts = [question.question, question.answer_form, repr(question.gold), str(question.answer_tokens)]
    parts += [question.answer_prefix, repr(question.closed_book_messages()), repr(question.prompt(""))]
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\x1f")
    if isinstance(context, Path):
        try:
            with context.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InputError(f"the context {context} cannot be read: {error}. Make it again.") from None
    else:
        digest.update(context.encode("utf-8", "surrogatepass"))
    return Planned(question, mode, digest.hexdigest()[:32], context_length(context))


def units_of(planned: Sequence[Planned], settings: AskSettings) -> list[list[Planned]]:
    """Consecutive questions of one mode that fill a batch; with several samples each question is a batch of its own."""
    units: list[list[Planned]] = []
    longest = 0
    for item in planned:
        tokens = min(settings.max_input_tokens, item.characters // _CHARACTERS_PER_TOKEN + 64)
        tokens += min(settings.max_output_tokens, item.question.answer_tokens + settings.reasoning_tokens)
        unit = units[-1] if units else []
        longest = max(longest, tokens)
        if item.mode == "memory_agent":
            full = len(unit) >= _UNIT_TRAJECTORIES
        else:
            full = len(unit) >= _UNIT_QUESTIONS or (len(unit) + 1) * longest > _UNIT_TOKENS
        if not unit or unit[0].mode != item.mode or full or settings.samples > 1:
            units.append([item])
            longest = tokens
        else:
            unit.append(item)
    return units
