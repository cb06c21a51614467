"""MRCR's rows made from a corpus, for lengths up to a window: the official data are on the hub only.

The same form, scoring rule and reader as `mrcr`; a third of the questions each have 2, 4 and 8 equal requests. From 128K
tokens on, `dialogue_recall_128k_512k` and `dialogue_recall_512k_1m` are written to disk instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from stages.common.generators.equal_requests import NEEDLES, make_row
from stages.common.prompts import defuse_tags
from stages.common.records import Category
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.evaluation.base import Availability, Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.mrcr import parse_row

_log = logging.getLogger(__name__)

_USUAL_QUESTIONS = 30  # per length
_SHORTEST, _LONGEST = 120, 1_500  # characters of a passage
_CHARACTERS_PER_TOKEN = 3  # fewer than prose has
_KEPT_COUNTS = 65_536


def _passages(documents: DocumentStore, longest: int) -> list[str]:
    """Different paragraphs of the general and professional documents, each once, in the order of the corpus."""
    found: dict[str, None] = {}
    for name in documents:
        if name.startswith((f"{Category.GENERAL.value}/", f"{Category.PROFESSIONAL.value}/")):
            for part in defuse_tags(documents[name].text).split("\n\n"):
                if _SHORTEST <= len(part.strip()) <= longest:
                    found.setdefault(part.strip())
    return list(found)


def _question(passages: Sequence[str], tokens: int, number: int, request: LoadRequest) -> Question | None:
    needles = NEEDLES[number % len(NEEDLES)]
    chance = rng(request.seed, "mrcr_made", tokens, number)
    row = make_row(passages, tokens, needles, chance, request.count_tokens)
    if row is None:
        return None
    return replace(
        parse_row({**row, "id": f"{needles}-{number}"}, number),
        benchmark=f"mrcr_made/{tokens}",
        groups={"needles": str(needles)},
        evidence_position=row["desired_msg_index"] / row["total_messages"],
    )


def _load(request: LoadRequest) -> Loaded:
    assert request.documents is not None, "available() was not asked"
    counted = replace(request, count_tokens=lru_cache(maxsize=_KEPT_COUNTS)(request.count_tokens))
    each = _USUAL_QUESTIONS if request.limit is None else -(-request.limit // max(1, len(request.lengths)))
    questions: list[Question] = []
    for tokens in request.lengths:
        # Eight replies must fit, and leave room for the hay.
        longest = max(_SHORTEST, min(_LONGEST, tokens * _CHARACTERS_PER_TOKEN // (3 * max(NEEDLES))))
        passages = _passages(request.documents, longest)
        made = [_question(passages, tokens, number, counted) for number in range(each)]
        questions += [question for question in made if question is not None]
        if None in made:
            _log.warning(
                "mrcr_made/%d: %d of %d questions could not be made of %d passages of the corpus",
                tokens, made.count(None), each, len(passages),
            )  # fmt: skip
    return Loaded(questions[: request.limit])


def _available(request: LoadRequest) -> Availability:
    if request.documents is None or not _passages(request.documents, _LONGEST):
        return Availability(False, "made from a corpus with a folder general/ or professional/: give --corpus DIR")
    return Availability(True, "made from the corpus (general/, professional/)")


MRCR_MADE = Benchmark(
    name="mrcr_made",
    title="MRCR's form at given lengths, replies from a corpus",
    source="generated from a corpus (form of hub openai/mrcr, MIT)",
    available=_available,
    load=_load,
    modes=("full_context", "memory_agent"),
)
