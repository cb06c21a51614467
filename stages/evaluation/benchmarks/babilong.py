"""BABILong (Kuratov et al. 2024): bAbI's facts in order at random places of long prose, qa1 to qa5.

Generated from bAbI's task files and the corpus' general documents. Official: in the first sentence of the lower-cased
answer the only label of the task (labels that the question names do not count) is the target.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stages.common.fitting import CountTokens, longest_prefix
from stages.common.records import Category
from stages.common.seeds import rng
from stages.evaluation.base import Availability, Benchmark, BrokenRow, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.needle import make_hay
from stages.evaluation.benchmarks.reading import reading_prompt
from stages.evaluation.scoring import babilong_label, guarded
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("babilong", "babi_for_babilong"), patterns=("qa[1-5]_*.txt",))
_USUAL_QUESTIONS = 100  # per task and length, as published
_ANSWER_TOKENS = 24
_LINE = re.compile(r"(\d+) (.*)")
_FORM = "The text holds facts that are hidden in other prose. Answer from these facts with one word only."


@dataclass(frozen=True)
class _Story:
    """Facts before a question, in order; target as in the file."""

    task: str
    number: int
    facts: tuple[str, ...]
    question: str
    target: str


def _stories(path: Path) -> tuple[list[_Story], list[BrokenRow]]:
    """Every question of a bAbI file with the facts that stand before it in its story."""
    task = path.name.split("_")[0]
    found: list[_Story] = []
    broken: list[BrokenRow] = []
    facts: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            if line.strip():
                broken.append(BrokenRow(f"{path.name}:{number}", "no numbered line"))
            continue
        if match[1] == "1":
            facts = []
        parts = [part.strip() for part in re.split(r"\||\t", match[2])]
        if len(parts) == 1:
            facts.append(parts[0])
        elif facts and parts[0].endswith("?") and parts[1]:
            found.append(_Story(task, number, tuple(facts), parts[0], parts[1]))
        else:
            broken.append(BrokenRow(f"{path.name}:{number}", "a question without facts or answer"))
    return found, broken


def _scatter(story: _Story, hay: str, tokens: int, chance: random.Random, count: CountTokens) -> tuple[str, float]:
    """(text, position of the first fact): the facts in order between sentences of the hay, in all about `tokens`."""
    room = max(0, tokens - count(" ".join(story.facts)))
    hay = hay[: longest_prefix(hay, room, count, slack_tokens=8)]
    sentences = re.split(r"(?<=[.!?])\s+", hay) if hay else []
    places = sorted(chance.randrange(len(sentences) + 1) for _ in story.facts)
    parts: list[str] = []
    start = 0
    first = None
    for place, fact in zip(places, story.facts, strict=True):
        parts += sentences[start:place]
        start = place
        first = first if first is not None else sum(len(part) + 1 for part in parts)
        parts.append(fact)
    text = " ".join([*parts, *sentences[start:]])
    return text, (first or 0) / max(1, len(text))


def _available(request: LoadRequest) -> Availability:
    if request.documents is None:
        return Availability(False, "its prose comes from a corpus: give --corpus DIR")
    return _SOURCE.available(request)


def _load(request: LoadRequest) -> Loaded:
    documents = request.documents
    assert documents is not None, "available() was not asked"
    hay_ids = [name for name in documents if name.startswith(f"{Category.GENERAL.value}/")] or list(documents)
    questions: list[Question] = []
    broken: list[BrokenRow] = []
    files = _SOURCE.files(request)
    per_file = _USUAL_QUESTIONS
    if request.limit is not None:
        per_file = -(-request.limit // max(1, len(files) * len(request.lengths)))
    for tokens in request.lengths:
        for path in files:
            stories, bad = _stories(path)
            broken += bad if tokens == request.lengths[0] else []
            labels = sorted({story.target for story in stories})
            chosen = rng(request.seed, "babilong", path.name).sample(stories, k=len(stories))[:per_file]
            for story in chosen:
                chance = rng(request.seed, "babilong", tokens, story.task, story.number)
                hay = make_hay(documents, hay_ids, tokens, chance, request.count_tokens)
                text, position = _scatter(story, hay, tokens, chance, request.count_tokens)
                questions.append(_question(story, tokens, text, position, labels))
    return Loaded(questions[: request.limit], broken)


def _question(story: _Story, tokens: int, text: str, position: float, labels: list[str]) -> Question:
    score = partial(babilong_label, target=story.target, labels=labels, question=story.question)
    return Question(
        benchmark=f"babilong/{tokens}",
        id=f"{story.task}-{story.number}",
        task_type="reading_comprehension",
        question=story.question,
        answer_form=_FORM,
        gold=story.target,
        context=partial(str, text),
        prompt=partial(reading_prompt, story.question, _FORM),
        metric="accuracy",
        score=score,
        more_metrics={"guarded": partial(guarded, score=score, golds=[story.target], question=story.question)},
        answer_tokens=_ANSWER_TOKENS,
        groups={"task": story.task},
        evidence_position=position,
    )


BABILONG = Benchmark(
    name="babilong",
    title="BABILong qa1-qa5: bAbI's facts hidden in long prose",
    source="generated from bAbI's qa1-qa5 files (CC BY 3.0) and a corpus",
    available=_available,
    load=_load,
)
