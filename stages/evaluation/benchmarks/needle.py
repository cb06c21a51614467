"""The needle test at given context lengths: RULER's single needle in the corpus' own general documents."""

from __future__ import annotations

import logging
import random
from functools import partial

from stages.common.fitting import CountTokens
from stages.common.generators.ruler import DEPTHS, NeedleTask, make_needle, share_contained
from stages.common.prompts import defuse_tags
from stages.common.records import AnswerKind, Category, Sample, TaskType
from stages.common.seeds import derive_seed, rng
from stages.common.storage import DocumentStore
from stages.evaluation.base import Question
from stages.evaluation.samples import sample_question

_log = logging.getLogger(__name__)

_CHARACTERS_PER_TOKEN = 6  # more than prose has, so that the first try is mostly enough
_MOST_CHARACTERS_PER_TOKEN = 64


def needle_questions(
    documents: DocumentStore,
    tokens: int,
    context_tokens: int,
    questions: int,
    seed: int,
    count_tokens: CountTokens,
) -> list[Question]:
    """Questions about contexts of `context_tokens` tokens under the name `needle/<tokens>`.

    Question i is the same whatever the number of questions. Empty if the corpus has no general documents.
    """
    hay_ids = [document_id for document_id in documents if document_id.startswith(f"{Category.GENERAL.value}/")]
    if not hay_ids:
        if questions:
            _log.warning("needle/%d: no question could be made, the corpus has no general documents", tokens)
        return []
    made = []
    for number in range(questions):
        chance = rng(seed, "needle", tokens, number)
        # A seeded order of the 40 depths, so that few questions spread over the context too.
        depths = rng(seed, "needle depths", tokens, number // len(DEPTHS)).sample(DEPTHS, k=len(DEPTHS))
        hay = make_hay(documents, hay_ids, context_tokens, chance, count_tokens)
        task = make_needle(hay, context_tokens, depths[number % len(DEPTHS)], chance, count_tokens)
        made.append(_question(task, tokens, number, seed, count_tokens(task.context)))
    return made


def make_hay(
    documents: DocumentStore, hay_ids: list[str], tokens: int, chance: random.Random, count_tokens: CountTokens
) -> str:
    """Text of at least `tokens` tokens: documents in random order, from a line somewhere in the first one."""
    order = chance.sample(hay_ids, k=len(hay_ids))
    first = defuse_tags(documents[order[0]].text)
    line = first.rfind("\n", 0, chance.randrange(max(1, len(first)))) + 1
    hay = first[line:]
    following, factor = 1, _CHARACTERS_PER_TOKEN
    while True:
        while len(hay) < tokens * factor:
            # A small corpus comes round again, as RULER repeats its essays.
            hay += "\n\n" + defuse_tags(documents[order[following % len(order)]].text)
            following += 1
        enough = hay[: tokens * factor]
        if count_tokens(enough) >= tokens or factor > _MOST_CHARACTERS_PER_TOKEN:
            return enough
        factor *= 2


def _question(task: NeedleTask, tokens: int, number: int, seed: int, context_tokens: int) -> Question:
    sample = Sample(
        id=f"needle-{tokens}-{number}",
        task_type=TaskType.READING_COMPREHENSION,
        question=f"A special magic number is hidden in the text. {task.question}",
        answer=task.value,
        answer_kind=AnswerKind.NUMBER,
        evidence=[],
        proof={"kind": "needle", "key": task.key, "depth": task.depth},
        generator="ruler/niah_single",
        seed=derive_seed(seed, "needle", tokens, number),
        context=[],
        context_tokens=context_tokens,
    )
    return sample_question(
        sample,
        benchmark=f"needle/{tokens}",
        context=partial(str, task.context),
        metric="share_contained",
        score=partial(share_contained, golds=[task.value]),
        evidence_position=task.position,
    )
