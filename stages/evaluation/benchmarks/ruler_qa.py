"""RULER's qa_1 and qa_2: the paragraphs of one question among those of the others, in random order.

As published, the other paragraphs of a SQuAD question's article come first among the distractors, and questions without
an answer (SQuAD 2.0) are left out. Departure: a HotpotQA question brings its supporting paragraphs alone, its own
distractors serve every question, so that short contexts can be made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stages.common.fitting import CountTokens
from stages.common.generators.ruler_tasks import RulerTask
from stages.evaluation.base import BrokenRow, LoadRequest
from stages.evaluation.rows import Located
from stages.evaluation.sources import RowSource

PARAGRAPH_TASKS = {
    "qa_1": RowSource(folders=("squad",), patterns=("*.jsonl", "*.parquet", "*.json")),
    "qa_2": RowSource(folders=("hotpotqa",)),
}


@dataclass
class Paragraphs:
    """questions: (question, golds, numbers of its paragraphs, its article). texts: all different paragraphs.

    articles: title -> numbers of its paragraphs; "" is no article.
    """

    questions: list[tuple[str, tuple[str, ...], list[int], str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    articles: dict[str, list[int]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, question: str, golds: tuple[str, ...], texts: list[str], article: str = "") -> None:
        """A question with its paragraphs."""
        self.questions.append((question, golds, [self.number(text, article) for text in texts], article))

    def number(self, text: str, article: str = "") -> int:
        """The paragraph's number; equal paragraphs are kept once."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
            if article:
                self.articles.setdefault(article, []).append(self._numbers[text])
        return self._numbers[text]


def read_paragraphs(task: str, source: RowSource, request: LoadRequest) -> tuple[Paragraphs, list[BrokenRow]]:
    """The questions of the task's files: SQuAD's official JSON or its rows as on the hub, HotpotQA's official rows."""
    rows, broken = source.rows(request)
    found = Paragraphs()
    for where, row in _squad_rows(rows) if task == "qa_1" else rows:
        try:
            question, golds, texts, article = _squad(row) if task == "qa_1" else _hotpot(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            broken.append(BrokenRow(where, f"{type(error).__name__}: {error}"[:200]))
            continue
        if question.strip() and golds and all(gold.strip() for gold in golds):
            found.add(question, golds, texts, article)
        elif question.strip() and not golds and task == "qa_1":
            found.number(texts[0], article)  # no answer, as in SQuAD 2.0: a distractor only
        else:
            broken.append(BrokenRow(where, "no question or no answer"))
    return found, broken


def _squad_rows(rows: list[Located]) -> Iterator[Located]:
    """Rows as on the hub; an article of the official JSON, {title, paragraphs: [{context, qas}]}, becomes one per question.

    A part of an article that is none becomes an empty row, which is a broken one.
    """
    for where, row in rows:
        if "paragraphs" not in row:
            yield where, row
            continue
        for place, paragraph in enumerate(_list(row["paragraphs"])):
            asked = _list(paragraph.get("qas") if isinstance(paragraph, dict) else None)
            for question in asked or [_NOTHING_ASKED]:
                try:
                    yield f"{where}/{place}", _hub_row(row, paragraph, question)
                except (KeyError, TypeError, AttributeError):
                    yield f"{where}/{place}", {}


_NOTHING_ASKED = {"question": "nothing is asked about this paragraph", "is_impossible": True}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [{}]


def _hub_row(article: dict[str, Any], paragraph: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    answers = [] if asked.get("is_impossible") else asked["answers"]
    return {
        "question": asked["question"],
        "answers": {"text": [answer["text"] for answer in answers]},
        "context": paragraph["context"],
        "title": article.get("title"),
    }


def _squad(row: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str], str]:
    if not isinstance(row["context"], str) or not isinstance(row["question"], str):
        raise TypeError("question and context must be texts")
    golds = tuple(dict.fromkeys(row["answers"]["text"]))
    return row["question"], golds, [row["context"]], str(row.get("title") or "")


def _hotpot(row: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str], str]:
    """Only the supporting paragraphs are its own; the distractors serve others as well."""
    supporting = {fact[0] for fact in row["supporting_facts"]}
    texts = [f"{title}\n{''.join(sentences)}" for title, sentences in row["context"] if title in supporting]
    if not texts:
        raise ValueError("no supporting paragraph")
    return row["question"], (row["answer"],), texts, ""


def make_qa(found: Paragraphs, tokens: int, chance: random.Random, *, count: CountTokens) -> RulerTask:
    """A question with its paragraphs among others', about `tokens` tokens."""
    question, golds, own, article = chance.choice(found.questions)
    near = [number for number in found.articles.get(article, ()) if number not in own]
    taken = {*own, *near}
    others = [number for number in range(len(found.texts)) if number not in taken]
    chosen, size = list(own), sum(count(found.texts[number]) + 8 for number in own)
    for number in [*chance.sample(near, k=len(near)), *chance.sample(others, k=len(others))]:
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
