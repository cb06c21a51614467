"""From candidates to a stage's questions: a spread draw, duplicates and unprovable ones dropped, files written."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from stages.common.errors import NotEnoughDataError
from stages.common.records import Dropped, QAPair, Span, TaskType
from stages.synthesis.config import GeneratorConfig
from stages.synthesis.facts import Fact
from stages.synthesis.pairs import write_pairs
from stages.synthesis.rederive import rederive

log = logging.getLogger(__name__)

T = TypeVar("T")

_HELP = {
    TaskType.NUMERICAL: "documents that state numbers: a heading with one value below it (as the World Factbook), "
    "or Markdown tables with named rows and columns (as financial filings)",
    TaskType.MULTI_HOP: "documents about things of one kind that share attributes and name each other "
    "(as country profiles with a capital, a coastline and border countries)",
    TaskType.MULTIPLE_CHOICE: "four or more documents that state the same attributes (as country profiles), "
    "or tables with four or more rows of numbers",
}


@dataclass
class Selection:
    """Questions taken so far and what was dropped. not_kept: drops by reason beyond those in `dropped`."""

    questions: list[QAPair] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    not_kept: Counter[str] = field(default_factory=Counter)

    def offer(self, qa: QAPair) -> bool:
        """Take a question unless its text was seen, holds its answer, or cannot be re-derived from its evidence."""
        reason = self._refusal(qa)
        if reason is None:
            self.questions.append(qa)
            self.seen.add(qa.question)
            return True
        self.dropped.append(
            Dropped(reason=reason, stage="synthesize", detail=qa.question[:300], record=qa.model_dump(mode="json"))
        )
        return False

    def _refusal(self, qa: QAPair) -> str | None:
        if qa.question in self.seen:
            return "duplicate_question"
        if qa.proof["kind"] == "path" and str(qa.answer).casefold() in qa.question.casefold():
            return "answer_in_question"
        if rederive(qa, evidence_text(qa)) != qa.answer:
            return "not_rederivable"
        return None


def evidence_text(qa: QAPair) -> Callable[[Span], str]:
    """Reads spans from the question's own evidence; characters that it does not hold are an IndexError."""

    def text_of(span: Span) -> str:
        for item in qa.evidence:
            if item.document_id == span.document_id and item.start <= span.start and span.end <= item.end:
                return item.quote[span.start - item.start : span.end - item.start]
        raise IndexError(f"characters {span.start} to {span.end} of {span.document_id} are no evidence")

    return text_of


def spread(facts: Iterable[T], rng: Random, keys: Callable[[T], Sequence[object]]) -> list[T]:
    """Order items so that any prefix is spread evenly over each of their keys, the first key first.

    Shuffle, then rank each item among those with the same key: the first of every key come before the second of any.
    """
    shuffled = list(facts)
    rng.shuffle(shuffled)
    seen: defaultdict[object, int] = defaultdict(int)
    ranked = []
    for position, item in enumerate(shuffled):
        ranks = []
        for level, key in enumerate(keys(item)):
            ranks.append(seen[level, key])
            seen[level, key] += 1
        ranked.append((*ranks, position))
    order = sorted(range(len(shuffled)), key=ranked.__getitem__)
    return [shuffled[index] for index in order]


def spread_facts(facts: Iterable[Fact], rng: Random) -> list[Fact]:
    """Spread over groups of one document ("Coal" of Chile), documents, and attributes."""
    return spread(facts, rng, lambda fact: ((fact.document_id, fact.group), fact.document_id, fact.key))


def in_turn(streams: Sequence[Iterator[T]]) -> Iterator[T]:
    """One item of each stream after the other until all are empty."""
    waiting = list(streams)
    while waiting:
        still = []
        for stream in waiting:
            for item in stream:
                yield item
                still.append(stream)
                break
        waiting = still


def fill(selection: Selection, candidates: Iterator[QAPair], upto: int) -> None:
    """Offer candidates until the selection holds `upto` questions or there are no more."""
    while len(selection.questions) < upto:
        candidate = next(candidates, None)
        if candidate is None:
            return
        selection.offer(candidate)


def write_selection(
    selection: Selection, task: TaskType, config: GeneratorConfig, documents: int, out_dir: Path
) -> dict[str, int]:
    """Write the stage's files. NotEnoughDataError says how many were found and what would help."""
    found = len(selection.questions)
    if found < config.min_questions:
        raise NotEnoughDataError(
            f"{documents} documents are too few for {task}: {found} questions found, at least "
            f"{config.min_questions} needed. Add {_HELP[task]} to ingest.sources, "
            f"or lower synthesize.{task}.min_questions."
        )
    return write_pairs(out_dir, task, selection.questions, selection.dropped, config, selection.not_kept)
