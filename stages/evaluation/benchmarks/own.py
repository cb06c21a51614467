"""The project's own three sets as benchmarks of the catalogue: made from a corpus, so no data need to be fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from stages.common.records import Category, Sample, TaskType
from stages.common.storage import read_records
from stages.evaluation.base import Availability, Benchmark, Loaded, LoadRequest
from stages.evaluation.benchmarks.dialogue_recall import dialogue_questions
from stages.evaluation.benchmarks.heldout import heldout_questions
from stages.evaluation.benchmarks.needle import needle_questions
from stages.evaluation.rows import find_file

_USUAL_QUESTIONS = 40  # per length, where no limit says otherwise
_RECALLED_TOKENS = 1_024  # longest turn that is asked for


def _per_length(request: LoadRequest) -> int:
    limit = request.limit
    return _USUAL_QUESTIONS if limit is None else -(-limit // max(1, len(request.lengths)))


def _has(category: Category, request: LoadRequest) -> Availability:
    documents = request.documents
    if documents is None or not any(name.startswith(f"{category.value}/") for name in documents):
        return Availability(False, f"made from a corpus with a folder {category.value}/: give --corpus DIR")
    return Availability(True, f"made from the corpus ({category.value}/)")


def _load_needle(request: LoadRequest) -> Loaded:
    assert request.documents is not None, "available() was not asked"
    questions = []
    for tokens in request.lengths:
        questions += needle_questions(
            request.documents, tokens, tokens, _per_length(request), request.seed, request.count_tokens
        )
    return Loaded(questions[: request.limit])


def _load_recall(request: LoadRequest) -> Loaded:
    assert request.documents is not None, "available() was not asked"
    questions = []
    for tokens in request.lengths:
        questions += dialogue_questions(
            request.documents,
            tokens,
            tokens,
            _RECALLED_TOKENS,
            _per_length(request),
            request.seed,
            request.count_tokens,
        )
    return Loaded(questions[: request.limit])


def _heldout_at_hand(request: LoadRequest) -> Availability:
    if find_file(request, "heldout", ("heldout.jsonl",)) is None or request.documents is None:
        return Availability(
            False,
            "no heldout.jsonl: run the pipeline, then --data outputs/stratify/data --corpus outputs/assemble/data",
        )
    return Availability(True, "heldout.jsonl of the pipeline")


def _load_heldout(request: LoadRequest) -> Loaded:
    path = find_file(request, "heldout", ("heldout.jsonl",))
    assert path is not None, "available() was not asked"
    assert request.documents is not None, "available() was not asked"
    samples = read_records(path, Sample)
    per_task = len(samples) if request.limit is None else _per_task(samples, request.limit)
    questions = heldout_questions(samples, request.documents, {task.value: per_task for task in TaskType})
    return Loaded(questions[: request.limit])


def _per_task(samples: Sequence[Sample], limit: int) -> int:
    """The fewest questions of each task type that make `limit` in all."""
    counts = Counter(sample.task_type for sample in samples).values()
    return next(
        (number for number in range(1, len(samples)) if sum(min(count, number) for count in counts) >= limit),
        len(samples),
    )


OWN: tuple[Benchmark, ...] = (
    Benchmark(
        name="heldout",
        title="the pipeline's own held-out questions, five task types",
        source="the stage stratify",
        available=_heldout_at_hand,
        load=_load_heldout,
    ),
    Benchmark(
        name="needle",
        title="one magic number in general documents (RULER's form)",
        source="generated from a corpus",
        available=partial(_has, Category.GENERAL),
        load=_load_needle,
    ),
    Benchmark(
        name="dialogue_recall",
        title="a turn of a long conversation, word for word (MRCR's form)",
        source="generated from a corpus",
        available=partial(_has, Category.DIALOGUES),
        load=_load_recall,
    ),
)
