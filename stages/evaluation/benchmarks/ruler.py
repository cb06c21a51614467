"""RULER (Hsieh et al. 2024): 13 tasks at given lengths. Score: share of the gold strings in the response, case ignored.

Eleven tasks are generated (stages/common/generators/ruler_tasks.py), with prose from the corpus in place of the essays.
qa_1 and qa_2 hide the paragraphs of a SQuAD or HotpotQA question among those of others; they need these files. The
official answer prefix opens the assistant's turn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial

from stages.common.generators.ruler import share_contained
from stages.common.generators.ruler_tasks import (
    NEEDLE_FORMS,
    RulerTask,
    make_chain,
    make_common_words,
    make_frequent_words,
    make_needles,
)
from stages.common.records import Category
from stages.common.seeds import rng
from stages.common.tokens import Message
from stages.evaluation.base import Availability, Benchmark, BrokenRow, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.needle import make_hay
from stages.evaluation.benchmarks.ruler_qa import PARAGRAPH_TASKS, Paragraphs, make_qa, read_paragraphs
from stages.evaluation.scoring import guarded
from stages.rewards.hybrid import without_question

_USUAL_QUESTIONS = 25  # per task and length; published: 500
_WORD = re.compile(r"\b[a-z]{4,9}\b")
_WORDS_OF_DOCUMENTS = 40

# Task family -> (what stands before the context, what is asked after it, answer prefix, output tokens).
_FORMS = {
    "niah": (
        "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the {kind} afterwards.\n",
        "What are all the special magic {kind} for {query} mentioned in the provided text?",
        " The special magic {kind} for {query} mentioned in the provided text are",
        128,
    ),
    "vt": (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
        "Question: Find all variables that are assigned the value {query} in the text above.",
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned the value "
        "{query}, they are: ",
        30,
    ),
    "cwe": (
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
        "appear most often.\n",
        "Question: What are the 10 most common words in the above list?",
        " Answer: The top 10 words that appear most often in the list are:",
        120,
    ),
    "fwe": (
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        "appeared coded words. ",
        "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
        "appeared words in the above coded text?",
        " Answer: According to the coded text above, the three most frequently appeared words are:",
        50,
    ),
    "qa": (
        "Answer the question based on the given documents. Only give me the answer and do not output any other words."
        "\n\nThe following are given documents.\n\n",
        "Answer the question based on the given documents. Only give me the answer and do not output any other words."
        "\n\nQuestion: {query}",
        " Answer:",
        32,
    ),
}

Make = Callable[[int, random.Random], RulerTask]


def _prompt(before: str, after: str, context: str) -> list[Message]:
    return [{"role": "user", "content": f"{before}{context}\n{after}"}]


def _question(task: str, number: int, tokens: int, made: RulerTask) -> Question:
    kind = NEEDLE_FORMS[task].value_kind if task in NEEDLE_FORMS else ""
    before, after, prefix, budget = _FORMS[task.split("_")[0]]
    asked = after.format(kind=kind, query=made.query)
    part_is_enough = task in PARAGRAPH_TASKS  # any of the golds is right
    score = partial(_contained, asked, made.golds, part_is_enough)
    return Question(
        benchmark=f"ruler/{task}/{tokens}",
        id=f"{task}-{number}",
        task_type="retrieval",
        question=asked,
        answer_form="",
        gold=list(made.golds),
        context=partial(str, made.context),
        prompt=partial(_prompt, before.format(kind=kind), asked),
        metric="any_contained" if part_is_enough else "share_contained",
        score=score,
        more_metrics={"guarded": partial(guarded, score=score, golds=made.golds, question=asked)},
        answer_tokens=budget,
        answer_prefix=prefix.format(kind=kind, query=made.query),
        groups={"task": task.rsplit("_", 1)[0] if task.startswith("niah") else task},
        evidence_position=made.position,
    )


def _contained(asked: str, golds: tuple[str, ...], part_is_enough: bool, response: str) -> float:
    """The official share, or 1 for any gold string (qa); a repeated question earns nothing ("no" is in "do not")."""
    share = share_contained(without_question(response, asked), golds)
    return float(share > 0) if part_is_enough else share


def _makers(request: LoadRequest, paragraphs: dict[str, Paragraphs]) -> dict[str, Make]:
    """Task -> what makes it for a length; tasks without their material are absent."""
    documents, count = request.documents, request.count_tokens
    makers: dict[str, Make] = {}
    hay_ids = [] if documents is None else [name for name in documents if name.startswith(f"{Category.GENERAL.value}/")]

    def prose(tokens: int, chance: random.Random) -> str:
        assert documents is not None, "tasks with prose were left out"
        return make_hay(documents, hay_ids, tokens, chance, count)

    def needles(task: str, tokens: int, chance: random.Random) -> RulerTask:
        form = NEEDLE_FORMS[task]
        return make_needles(form, prose(tokens, chance) if form.hay == "prose" else "", tokens, chance, count)

    for task, form in NEEDLE_FORMS.items():
        if form.hay != "prose" or hay_ids:
            makers[task] = partial(needles, task)
    makers["vt"] = lambda tokens, chance: make_chain(tokens, chance, count)
    if documents is not None and hay_ids:
        texts = " ".join(documents[name].text for name in hay_ids[:_WORDS_OF_DOCUMENTS])
        words = sorted(set(_WORD.findall(texts)))
        if len(words) >= 100:
            makers["cwe"] = lambda tokens, chance: make_common_words(words, tokens, chance, count)
    makers["fwe"] = lambda tokens, chance: make_frequent_words(tokens, chance, count)
    for task, found in paragraphs.items():
        makers[task] = partial(make_qa, found, count=count)
    return makers


def _available(request: LoadRequest) -> Availability:
    missing = []
    if request.documents is None:
        missing.append("six tasks with prose need --corpus DIR")
    missing += [
        f"{task} needs {source.folders[0]}/" for task, source in PARAGRAPH_TASKS.items() if not source.files(request)
    ]
    return Availability(True, "generated" + (f" ({'; '.join(missing)})" if missing else ""))


def _load(request: LoadRequest) -> Loaded:
    paragraphs: dict[str, Paragraphs] = {}
    broken: list[BrokenRow] = []
    for task, source in PARAGRAPH_TASKS.items():
        if source.files(request):
            paragraphs[task], bad = read_paragraphs(task, source, request)
            broken += bad
    makers = _makers(request, {task: found for task, found in paragraphs.items() if found.questions})
    each = _USUAL_QUESTIONS
    if request.limit is not None:
        each = -(-request.limit // max(1, len(makers) * len(request.lengths)))
    questions = []
    for number in range(each):  # one of every task first, so that a small limit sees them all
        for tokens in request.lengths:
            for task, make in makers.items():
                chance = rng(request.seed, "ruler", task, tokens, number)
                questions.append(_question(task, number, tokens, make(tokens, chance)))
    return Loaded(questions[: request.limit], broken)


RULER = Benchmark(
    name="ruler",
    title="RULER: 13 retrieval, tracing, counting and QA tasks at given lengths",
    source="generated (form of github NVIDIA/RULER, Apache-2.0); qa_1 SQuAD, qa_2 HotpotQA",
    available=_available,
    load=_load,
)
