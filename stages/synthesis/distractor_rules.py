"""What may stand beside the evidence: text that provably leaves the answer as it is. One rule per kind of question.

- all: no document with the title of an evidence document, and no other part of one;
- all with an answer in words: no text that holds it (long texts: that holds it near the question's subject);
- look-ups and hops (proof rows name entity and attribute): no text that names entity and attribute close together, since it
  might state another value; none of the same series of files ("aapl-10K", "aapl-10Q": one company, two revenues);
- questions over "all" without naming them (proof rows of entities that the question does not name): no document that states
  the attribute at all, since it would be counted in;
- "which document says S": no text that says S; examples with labels: none that holds a quoted text or a label.

Facts themselves are unique beyond the context: the generators prove that against the whole corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.records import AnswerKind, Document, QAPair, TaskType
from stages.synthesis.in_context_proofs import shown_texts
from stages.synthesis.text_words import TextWords, plain

ATTRIBUTE_TASKS = frozenset({TaskType.NUMERICAL, TaskType.MULTIPLE_CHOICE, TaskType.MULTI_HOP})
_SERIES = re.compile(r"[A-Za-z]{2,}")
_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")
_MIN_LETTERS = 3
_NEAR_CHARACTERS = 300
_LONG_CHARACTERS = 4_000  # a shorter text must not hold the answer at all


@dataclass(frozen=True)
class Guard:
    """The rules for one question."""

    titles: frozenset[str]
    series: frozenset[tuple[str, str]]
    answers: tuple[str, ...]
    subjects: tuple[str, ...]  # whom the question is about
    facts: tuple[tuple[str, str], ...]  # (entity, attribute) whose value is asked for
    sentences: tuple[str, ...]  # that no other text may hold

    def allows_document(self, title: str, source: str) -> bool:
        """False for a document that may speak of the same thing."""
        return title not in self.titles and (not self.series or series_of(source) not in self.series)

    def allows_text(self, words: TextWords, start: int, end: int) -> bool:
        """False for a part of a document that may answer the question."""
        if any(sentence in words and words.positions(sentence, start, end) for sentence in self.sentences):
            return False
        for answer in self.answers:
            if answer in words and (found := words.positions(answer, start, end)):
                if end - start <= _LONG_CHARACTERS:
                    return False
                if any(_near(found, words.positions(subject, start, end)) for subject in self.subjects):
                    return False
        return not any(
            entity in words
            and attribute in words
            and _near(words.positions(entity, start, end), words.positions(attribute, start, end))
            for entity, attribute in self.facts
        )


def guard_of(pair: QAPair, evidence_documents: Sequence[Document]) -> Guard:
    """The rules for a question whose evidence stands in these documents."""
    looks_up = pair.task_type in ATTRIBUTE_TASKS
    facts = dict.fromkeys(_asked_facts(pair))
    entities = [entity for entity, _ in facts]
    titles = [plain(document.title) for document in evidence_documents]
    return Guard(
        titles=frozenset(document.title for document in evidence_documents),
        series=frozenset(series_of(document.source) for document in evidence_documents) if looks_up else frozenset(),
        answers=tuple(
            words
            for answer in answers_in_words(pair)
            if sum(map(str.isalpha, answer)) >= _MIN_LETTERS and (words := plain(answer))
        ),
        subjects=tuple(dict.fromkeys(words for words in [*entities, *titles] if words)),
        facts=tuple(facts),
        sentences=tuple(words for sentence in _quoted(pair) if (words := plain(sentence))),
    )


def _quoted(pair: QAPair) -> Iterator[str]:
    """What the question quotes for its place to be found."""
    if pair.proof.get("kind") == "title_of":
        yield str(pair.proof.get("sentence", ""))
    elif pair.proof.get("kind") == "labels":
        shots, asked = shown_texts(pair.question)
        yield from (words for shot in shots for words in shot)
        yield from asked


def _asked_facts(pair: QAPair) -> Iterator[tuple[str, str]]:
    for row in proof_rows(pair.proof):
        entity = plain(_BRACKETS.sub("", str(row.get("entity", ""))))
        attribute = plain(_BRACKETS.sub("", str(row.get("attribute", ""))))
        if entity and sum(map(str.isalpha, attribute)) >= _MIN_LETTERS:
            yield entity, attribute


def proof_rows(proof: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping inside a proof that names an entity and an attribute."""
    if isinstance(proof, Mapping):
        if "entity" in proof and "attribute" in proof:
            yield proof
        for value in proof.values():
            if isinstance(value, Mapping | list):
                yield from proof_rows(value)
    elif isinstance(proof, list):
        for value in proof:
            if isinstance(value, Mapping | list):
                yield from proof_rows(value)


def is_open(pair: QAPair) -> bool:
    """True if the answer counts or compares entities that the question does not name: more of them would change it.

    Only computed answers: hops of a path are unique in the whole graph, whatever else a context shows.
    """
    inner = pair.proof.get("of")  # an option that a computation gives
    if "sql" not in pair.proof and not (isinstance(inner, Mapping) and "sql" in inner):
        return False
    asked = f" {plain(' '.join([pair.question, *pair.choices]))} "
    entities = {plain(_BRACKETS.sub("", str(row["entity"]))) for row in proof_rows(pair.proof)}
    return any(entity and f" {entity} " not in asked for entity in entities)


def series_of(source: str) -> tuple[str, str]:
    """Folder and leading letters of a file's name: `filings/aapl-10K-2024.md` -> ("filings", "aapl")."""
    folder, _, name = source.rpartition("/")
    match = _SERIES.match(name)
    return (folder, match[0].lower()) if match else (folder, name)


def answers_in_words(pair: QAPair) -> list[str]:
    """What a text must not say. Bare numbers recur everywhere and are read by their heading: none."""
    if pair.answer_kind is AnswerKind.NUMBER:
        return []
    if pair.answer_kind is AnswerKind.LETTER:
        index = "ABCDEFGH".find(str(pair.answer))
        return [pair.choices[index]] if 0 <= index < len(pair.choices) else []
    if isinstance(pair.answer, list):
        return list(pair.answer)
    return [pair.answer.removeprefix(str(pair.proof.get("prefix", "")))]


def _near(first: Sequence[int], second: Sequence[int]) -> bool:
    """True if a position of one lies close to one of the other; both ascend."""
    index = 0
    for position in first:
        while index < len(second) and second[index] < position - _NEAR_CHARACTERS:
            index += 1
        if index < len(second) and second[index] <= position + _NEAR_CHARACTERS:
            return True
    return False
