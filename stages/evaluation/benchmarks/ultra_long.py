"""Sets of 128K to 4M tokens, for the memory agent: their texts are written to disk when they are asked, never held whole.

    needle_4m, multi_hop_4m                               hidden facts in the corpus' general documents
    dialogue_recall_128k_512k, dialogue_recall_512k_1m    one of several replies to equal requests, in real conversations
    corpus_numerical_1m, corpus_numerical_4m              a figure over all reports of a corpus (CorpusQA's kind)

Every answer is right by construction: facts are drawn first, then written down. Question i of a set is the same however
many are made, and the same tokenizer and corpus give the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random

from stages.common.errors import InputError
from stages.common.generators.corpus_numbers import TOKENS_PER_REPORT, corpus_task
from stages.common.generators.hidden_facts import hidden_chain, hidden_needle
from stages.common.generators.hidden_replies import hidden_replies
from stages.common.generators.ruler import DEPTHS, share_contained
from stages.common.generators.streamed import Passage, Write, Written, endless_hay, endless_talk, write_streamed
from stages.common.records import AnswerKind, Category, Sample, TaskType
from stages.common.seeds import derive_seed, rng
from stages.evaluation.base import Availability, Benchmark, Loaded, LoadRequest, Question, Score
from stages.evaluation.samples import METRICS, sample_question

USUAL_QUESTIONS = 10
_KEPT_COUNTS = 16_384  # pieces of about a thousand characters


@dataclass(frozen=True)
class UltraTask:
    """What is asked about a text that `write` makes."""

    question: str
    answer: str
    answer_kind: AnswerKind
    task_type: TaskType
    proof: dict[str, object]
    evidence_position: float | None
    tokens: int
    write: Write
    score: Score | None = None
    metric: str | None = None


Make = Callable[[LoadRequest, int, int, Random], UltraTask]  # request, tokens, number, its random stream


def needle_task(request: LoadRequest, tokens: int, number: int, chance: Random) -> UltraTask:
    """One magic number; the depths of 40 consecutive questions are RULER's 40."""
    depths = rng(request.seed, "ultra needle depths", tokens, number // len(DEPTHS)).sample(DEPTHS, k=len(DEPTHS))
    task = hidden_needle(depths[number % len(DEPTHS)], chance)
    return UltraTask(
        question=f"A special magic number is hidden in the text. {task.question}",
        answer=task.answer,
        answer_kind=AnswerKind.NUMBER,
        task_type=TaskType.READING_COMPREHENSION,
        proof={"kind": "needle", "key": task.names[0]},
        evidence_position=task.passages[0].depth,
        tokens=tokens,
        write=_writer(request, tokens, chance, task.passages, task.names, (Category.GENERAL,)),
        score=partial(share_contained, golds=[task.answer]),
        metric="share_contained",
    )


def multi_hop_task(request: LoadRequest, tokens: int, _: int, chance: Random) -> UltraTask:
    """A chain of four facts among three others."""
    task = hidden_chain(chance)
    return UltraTask(
        question=task.question,
        answer=task.answer,
        answer_kind=AnswerKind.NUMBER,
        task_type=TaskType.MULTI_HOP,
        proof={"kind": "chain", "facts": [task.passages[index].text for index in task.evidence]},
        evidence_position=min(task.passages[index].depth for index in task.evidence),
        tokens=tokens,
        write=_writer(request, tokens, chance, task.passages, task.names, (Category.GENERAL,)),
    )


def recall_task(request: LoadRequest, tokens: int, _: int, chance: Random) -> UltraTask:
    """One of several replies to equal requests in the corpus' conversations."""
    task = hidden_replies(chance)
    return UltraTask(
        question=task.question,
        answer=task.gold,
        answer_kind=AnswerKind.SEQUENCE,
        task_type=TaskType.DIALOGUE_MEMORY,
        proof={"kind": "mrcr", "prefix": task.prefix},
        evidence_position=task.depth,
        tokens=tokens,
        write=_writer(request, tokens, chance, task.passages, task.topics, (Category.DIALOGUES,)),
    )


def numerical_task(
    request: LoadRequest, tokens: int, _: int, chance: Random, *, tokens_per_report: int = TOKENS_PER_REPORT
) -> UltraTask:
    """A figure over all reports of one sector, among professional and general documents."""
    task = corpus_task(tokens, chance, tokens_per_report)
    return UltraTask(
        question=task.question,
        answer=task.answer,
        answer_kind=AnswerKind.TEXT if task.is_name else AnswerKind.NUMBER,
        task_type=TaskType.NUMERICAL,
        proof={"kind": "corpus", "operation": task.operation, "sector": task.sector, "rows": list(task.rows)},
        evidence_position=task.depth,
        tokens=tokens,
        write=_writer(request, tokens, chance, task.passages, task.names, PROSE),
        metric="rule_score",  # names by cover exact match, numbers by numeric match
    )


def _writer(
    request: LoadRequest,
    tokens: int,
    chance: Random,
    passages: Sequence[Passage],
    avoid: Sequence[str],
    categories: Sequence[Category],
) -> Write:
    """Writes the text; its hay has a random stream of its own, so that writing twice gives equal bytes."""
    hay_seed = chance.getrandbits(63)

    def write(path: Path) -> Written:
        assert request.documents is not None, "available() was not asked"
        talk = Category.DIALOGUES in categories
        hay = endless_talk if talk else endless_hay
        pieces = hay(request.documents, _ids(request, categories), rng(hay_seed, "hay"), avoid)
        try:
            return write_streamed(path, pieces, passages, tokens, request.count_tokens, "\n" if talk else "\n\n")
        except ValueError as error:
            raise InputError(
                f"no text of {tokens} tokens can be made of the corpus: {error}. Give another --corpus."
            ) from None

    return write


def questions_of_length(
    make: Make, benchmark: str, request: LoadRequest, tokens: int, questions: int, folder: Path
) -> list[Question]:
    """Questions under the name `benchmark`, each about a text of its own of `tokens` tokens, written into `folder` when asked."""
    made = []
    for number in range(questions):
        chance = rng(request.seed, "ultra", benchmark, number)
        made.append(_question(make(request, tokens, number, chance), benchmark, number, request.seed, folder))
    return made


class _WrittenContext:
    """The text's file; written at the first call."""

    def __init__(self, write: Write, path: Path) -> None:
        self._write, self._path, self._written = write, path, False

    def __call__(self) -> Path:
        if not self._written or not self._path.is_file():
            self._write(self._path)
            self._written = True
        return self._path


def _question(task: UltraTask, benchmark: str, number: int, seed: int, folder: Path) -> Question:
    name = f"{benchmark.replace('/', '-')}-{number}"
    sample = Sample(
        id=name,
        task_type=task.task_type,
        question=task.question,
        answer=task.answer,
        answer_kind=task.answer_kind,
        evidence=[],
        proof=task.proof,
        generator="ultra_long",
        seed=derive_seed(seed, "ultra", benchmark, number),
        context=[],
        context_tokens=task.tokens,
    )
    return sample_question(
        sample,
        benchmark=benchmark,
        context=_WrittenContext(task.write, folder / f"{name}.txt"),
        metric=task.metric or METRICS[task.answer_kind],
        evidence_position=task.evidence_position,
        score=task.score,
    )


def _ids(request: LoadRequest, categories: Sequence[Category]) -> list[str]:
    beginnings = tuple(f"{category.value}/" for category in categories)
    return [] if request.documents is None else [name for name in request.documents if name.startswith(beginnings)]


def corpus_available(categories: Sequence[Category], request: LoadRequest) -> Availability:
    """Whether the corpus has documents of one of the categories."""
    folders = " or ".join(f"{category.value}/" for category in categories)
    if not _ids(request, categories):
        return Availability(False, f"made from a corpus with a folder {folders}: give --corpus DIR")
    return Availability(True, f"made from the corpus ({folders}), on disk")


def scratch_folder(request: LoadRequest, name: str) -> Path:
    """Where texts are written: below `contexts_dir`, else a temporary folder (TMPDIR) that ends with the process."""
    if request.contexts_dir is not None:
        return request.contexts_dir / name
    made = tempfile.TemporaryDirectory(prefix=f"longfuse-{name}-")
    _FOLDERS.append(made)  # the folder is removed with its object, at the end of the process
    return Path(made.name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _load(name: str, make: Make, shortest: int, longest: int, request: LoadRequest) -> Loaded:
    folder = scratch_folder(request, name)
    # A small corpus comes round many times: its pieces are counted once.
    counted = replace(request, count_tokens=lru_cache(maxsize=_KEPT_COUNTS)(request.count_tokens))
    made = []
    for number in range(USUAL_QUESTIONS if request.limit is None else request.limit):
        chance = rng(request.seed, "ultra", name, number)
        tokens = chance.randint(shortest, longest)
        made.append(_question(make(counted, tokens, number, chance), name, number, request.seed, folder))
    return Loaded(made)


def benchmark(
    name: str, title: str, make: Make, shortest: int, longest: int, categories: Sequence[Category]
) -> Benchmark:
    """A set whose texts have between `shortest` and `longest` tokens."""
    return Benchmark(
        name=name,
        title=title,
        source="generated from a corpus",
        available=partial(corpus_available, categories),
        load=partial(_load, name, make, shortest, longest),
        modes=("memory_agent",),
    )


PROSE = (Category.PROFESSIONAL, Category.GENERAL)
_HAY, _TALK = (Category.GENERAL,), (Category.DIALOGUES,)
_K, _M = 1_000, 1_000_000
ULTRA_LONG: tuple[Benchmark, ...] = (
    benchmark("needle_4m", "one magic number in 4M tokens", needle_task, 4 * _M, 4 * _M, _HAY),
    benchmark("multi_hop_4m", "a chain of four facts in 4M tokens", multi_hop_task, 4 * _M, 4 * _M, _HAY),
    benchmark(
        "dialogue_recall_128k_512k", "one of 2 to 8 equal requests' replies", recall_task, 128 * _K, 512 * _K, _TALK
    ),
    benchmark("dialogue_recall_512k_1m", "the same, 512K to 1M tokens", recall_task, 512 * _K, _M, _TALK),
    benchmark("corpus_numerical_1m", "a figure over all reports of a sector", numerical_task, _M, _M, PROSE),
    benchmark("corpus_numerical_4m", "the same in 4M tokens", numerical_task, 4 * _M, 4 * _M, PROSE),
)
