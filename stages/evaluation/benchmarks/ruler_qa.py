"""RULER's qa_1 and qa_2: the paragraphs of one question among those of the others, in random order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from stages.common.fitting import CountTokens
from stages.common.generators.ruler_tasks import RulerTask
from stages.evaluation.base import BrokenRow, LoadRequest
from stages.evaluation.sources import RowSource

PARAGRAPH_TASKS = {
    "qa_1": RowSource(folders=("squad",), patterns=("*.jsonl", "*.parquet")),
    "qa_2": RowSource(folders=("hotpotqa",)),
}


@dataclass
class Paragraphs:
    """questions: (question, golds, numbers of its paragraphs). texts: all different paragraphs."""

    questions: list[tuple[str, tuple[str, ...], list[int]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, question: str, golds: tuple[str, ...], texts: list[str]) -> None:
        """A question with its paragraphs; equal paragraphs are kept once."""
        numbers = []
        for text in texts:
            if text not in self._numbers:
                self._numbers[text] = len(self.texts)
                self.texts.append(text)
            numbers.append(self._numbers[text])
        self.questions.append((question, golds, numbers))


def read_paragraphs(task: str, source: RowSource, request: LoadRequest) -> tuple[Paragraphs, list[BrokenRow]]:
    """The questions of the task's files (SQuAD's rows as on the hub, HotpotQA's official rows)."""
    rows, broken = source.rows(request)
    found = Paragraphs()
    for where, row in rows:
        try:
            question, golds, texts = _squad(row) if task == "qa_1" else _hotpot(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            broken.append(BrokenRow(where, f"{type(error).__name__}: {error}"[:200]))
            continue
        if question.strip() and golds and all(gold.strip() for gold in golds):
            found.add(question, golds, texts)
        else:
            broken.append(BrokenRow(where, "no question or no answer"))
    return found, broken


def _squad(row: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str]]:
    return row["question"], tuple(dict.fromkeys(row["answers"]["text"])), [row["context"]]


def _hotpot(row: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str]]:
    """Only the supporting paragraphs are its own; the distractors serve others as well."""
    supporting = {fact[0] for fact in row["supporting_facts"]}
    texts = [f"{title}\n{''.join(sentences)}" for title, sentences in row["context"] if title in supporting]
    if not texts:
        raise ValueError("no supporting paragraph")
    return row["question"], (row["answer"],), texts


def make_qa(found: Paragraphs, tokens: int, chance: random.Random, *, count: CountTokens) -> RulerTask:
    """A question with its paragraphs among others', about `tokens` tokens."""
    question, golds, own = chance.choice(found.questions)
    others = [number for number in range(len(found.texts)) if number not in own]
    chosen, size = list(own), sum(count(found.texts[number]) + 8 for number in own)
    for number in chance.sample(others, k=len(others)):
        size += count(found.texts[number]) + 8
        if size > tokens:
            break
        chosen.append(number)
    chance.shuffle(chosen)
    parts = [f"Document {place}:\n{found.texts[number]}" for place, number in enumerate(chosen, start=1)]
    context = "\n\n".join(parts)
    first = min(chosen.index(number) for number in own)
    before = sum(len(part) + 2 for part in parts[:first])
    return RulerTask(context, question, golds, before / max(1, len(context)))
