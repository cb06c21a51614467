"""Sets of 128K to 4M tokens, for the memory agent: their texts are written to disk when they are asked, never held whole.

    needle_4m, multi_hop_4m                               hidden facts in the corpus' general documents
    dialogue_recall_128k_512k, dialogue_recall_512k_1m    one of several replies to equal requests, in real conversations
    corpus_numerical_1m, corpus_numerical_4m              a figure over all reports of a corpus (CorpusQA's kind)

Every answer is right by construction: facts are drawn first, then written down. Question i of a set is the same however
many are made, and the same tokenizer and corpus give the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from stages.common.generators.hidden_facts import HiddenTask, hidden_chain, hidden_needle
from stages.common.generators.ruler import DEPTHS, share_contained
from stages.common.generators.streamed import Write, Written, endless_hay, write_streamed
from stages.common.records import AnswerKind, Category, Sample, TaskType
from stages.common.seeds import derive_seed, rng
from stages.evaluation.base import Availability, Benchmark, Loaded, LoadRequest, Question, Score
from stages.evaluation.samples import METRICS, sample_question

USUAL_QUESTIONS = 10


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
    asked = f"A special magic number is hidden in the text. {task.question}"
    return _hidden(
        request,
        tokens,
        chance,
        task,
        asked,
        TaskType.READING_COMPREHENSION,
        partial(share_contained, golds=[task.answer]),
    )


def multi_hop_task(request: LoadRequest, tokens: int, _: int, chance: Random) -> UltraTask:
    """A chain of four facts among three others."""
    task = hidden_chain(chance)
    return _hidden(request, tokens, chance, task, task.question, TaskType.MULTI_HOP, None)


def _hidden(
    request: LoadRequest,
    tokens: int,
    chance: Random,
    task: HiddenTask,
    asked: str,
    task_type: TaskType,
    score: Score | None,
) -> UltraTask:
    hay_seed = chance.getrandbits(63)

    def write(path: Path) -> Written:
        documents = request.documents
        assert documents is not None, "available() was not asked"
        hay = endless_hay(documents, _ids(request, Category.GENERAL), rng(hay_seed, "hay"))
        return write_streamed(path, hay, task.passages, tokens, request.count_tokens)

    return UltraTask(
        question=asked,
        answer=task.answer,
        answer_kind=AnswerKind.NUMBER,
        task_type=task_type,
        proof={"kind": "hidden", "facts": [task.passages[index].text for index in task.evidence]},
        evidence_position=min(task.passages[index].depth for index in task.evidence),
        tokens=tokens,
        write=write,
        score=score,
        metric=None if score is None else "share_contained",
    )


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


def _ids(request: LoadRequest, category: Category) -> list[str]:
    documents = request.documents
    return [] if documents is None else [name for name in documents if name.startswith(f"{category.value}/")]


def _available(category: Category, request: LoadRequest) -> Availability:
    if not _ids(request, category):
        return Availability(False, f"made from a corpus with a folder {category.value}/: give --corpus DIR")
    return Availability(True, f"made from the corpus ({category.value}/), on disk")


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
    questions = USUAL_QUESTIONS if request.limit is None else request.limit
    made = []
    for number in range(questions):
        chance = rng(request.seed, "ultra", name, number)
        tokens = chance.randint(shortest, longest)
        made.append(_question(make(request, tokens, number, chance), name, number, request.seed, folder))
    return Loaded(made)


def _benchmark(name: str, title: str, make: Make, tokens: tuple[int, int], category: Category) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        source="generated from a corpus",
        available=partial(_available, category),
        load=partial(_load, name, make, *tokens),
        modes=("memory_agent",),
    )


_M = 1_000_000
ULTRA_LONG: tuple[Benchmark, ...] = (
    _benchmark("needle_4m", "one magic number in 4M tokens", needle_task, (4 * _M, 4 * _M), Category.GENERAL),
    _benchmark(
        "multi_hop_4m", "a chain of four facts in 4M tokens", multi_hop_task, (4 * _M, 4 * _M), Category.GENERAL
    ),
)
