"""Dialogue recall at given context lengths: MRCR's form on the corpus' own conversations."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from functools import partial

from stages.common.fitting import CountTokens
from stages.common.generators.mrcr import RecallTask, make_recall
from stages.common.prompts import defuse_tags
from stages.common.records import AnswerKind, Category, Sample, TaskType
from stages.common.seeds import derive_seed, rng
from stages.common.storage import DocumentStore
from stages.common.turns import Turn, parse_turns
from stages.evaluation.base import Question
from stages.evaluation.samples import METRICS, sample_question

_log = logging.getLogger(__name__)

_TRIES = 20  # places in the corpus that are looked at for one question


def dialogue_questions(
    documents: DocumentStore,
    tokens: int,
    context_tokens: int,
    max_answer_tokens: int,
    questions: int,
    seed: int,
    count_tokens: CountTokens,
) -> list[Question]:
    """Questions about transcripts of `context_tokens` tokens under the name `dialogue_recall/<tokens>`.

    Question i is the same whatever the number of questions. Fewer, with a warning, where the conversations have no turn
    that is short enough to be repeated; none if there are no conversations.
    """
    ids = [document_id for document_id in documents if document_id.startswith(f"{Category.DIALOGUES.value}/")]
    made = []
    for number in range(questions if ids else 0):
        task = _task(
            documents, ids, context_tokens, max_answer_tokens, rng(seed, "recall", tokens, number), count_tokens
        )
        if task is not None:
            made.append(_question(task, tokens, number, seed, count_tokens(task.context)))
    if len(made) < questions:
        _log.warning("dialogue_recall/%d: only %d of %d questions could be made", tokens, len(made), questions)
    return made


def _task(
    documents: DocumentStore,
    ids: list[str],
    context_tokens: int,
    max_answer_tokens: int,
    chance: random.Random,
    count_tokens: CountTokens,
) -> RecallTask | None:
    for _ in range(_TRIES):
        turns = _turns_from(documents, chance.sample(ids, k=len(ids)), context_tokens, chance)
        task = make_recall(turns, context_tokens, max_answer_tokens, chance, count_tokens)
        if task is not None:
            return task
    return None


def _turns_from(documents: DocumentStore, order: list[str], tokens: int, chance: random.Random) -> list[Turn]:
    """Consecutive turns from a random place in the first conversation on, further conversations as needed."""
    turns: list[Turn] = []
    characters = 0
    for turn in _all_turns(documents, order, chance):
        turns.append(turn)
        characters += len(turn.line) + 1
        if characters > 8 * tokens:  # no prose has so many characters a token
            break
    return turns


def _all_turns(documents: DocumentStore, order: list[str], chance: random.Random) -> Iterator[Turn]:
    for position, document_id in enumerate(order):
        turns = parse_turns(defuse_tags(documents[document_id].text))
        yield from turns[chance.randrange(len(turns)) if turns and position == 0 else 0 :]


def _question(task: RecallTask, tokens: int, number: int, seed: int, context_tokens: int) -> Question:
    sample = Sample(
        id=f"dialogue_recall-{tokens}-{number}",
        task_type=TaskType.DIALOGUE_MEMORY,
        question=task.question,
        answer=task.gold,
        answer_kind=AnswerKind.SEQUENCE,
        evidence=[],
        proof={"kind": "mrcr", "prefix": task.prefix},
        generator="mrcr/turns",
        seed=derive_seed(seed, "recall", tokens, number),
        context=[],
        context_tokens=context_tokens,
    )
    return sample_question(
        sample,
        benchmark=f"dialogue_recall/{tokens}",
        context=partial(str, task.context),
        metric=METRICS[AnswerKind.SEQUENCE],
        evidence_position=task.position,
    )
