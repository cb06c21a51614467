"""CorpusQA's kind at given lengths, for a window: a figure over all reports of one sector, on disk (CorpusQA has no data).

`corpus_numerical_1m` and `corpus_numerical_4m` are the same beyond any window, for the agent alone. Here a report comes
about every 2,000 tokens in place of 16,000, so that a text of 128K tokens has 64 of them, about ten of each sector.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import lru_cache, partial

from stages.common.generators.corpus_numbers import corpus_task
from stages.common.seeds import rng
from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.ultra_long import (
    PROSE,
    corpus_available,
    numerical_task,
    questions_of_length,
    scratch_folder,
)

_log = logging.getLogger(__name__)

TOKENS_PER_REPORT = 2_000
_USUAL_QUESTIONS = 20  # per length
_KEPT_COUNTS = 16_384  # pieces of about a thousand characters
_ROOM = 1.2  # figures have more or fewer digits


def _fits(request: LoadRequest, tokens: int) -> bool:
    """Whether the reports alone leave room in a text of so many tokens."""
    task = corpus_task(tokens, rng(request.seed, "corpus_numerical size"), TOKENS_PER_REPORT)
    return _ROOM * sum(request.count_tokens(f"{passage.text}\n\n") for passage in task.passages) <= tokens


def _load(request: LoadRequest) -> Loaded:
    counted = replace(request, count_tokens=lru_cache(maxsize=_KEPT_COUNTS)(request.count_tokens))
    folder = scratch_folder(request, "corpus_numerical")
    make = partial(numerical_task, tokens_per_report=TOKENS_PER_REPORT)
    each = _USUAL_QUESTIONS if request.limit is None else -(-request.limit // max(1, len(request.lengths)))
    questions: list[Question] = []
    for tokens in request.lengths:
        if _fits(counted, tokens):
            questions += questions_of_length(make, f"corpus_numerical/{tokens}", counted, tokens, each, folder)
        else:
            _log.warning("corpus_numerical/%d: %d tokens cannot hold the reports of a corpus", tokens, tokens)
    return Loaded(questions[: request.limit])


CORPUS_NUMERICAL = Benchmark(
    name="corpus_numerical",
    title="a figure over all reports of a sector, at given lengths (CorpusQA's kind)",
    source="generated from a corpus",
    available=partial(corpus_available, PROSE),
    load=_load,
    modes=("full_context", "memory_agent"),
)
