"""NoCha (Karpinska et al. 2024): true and false claims about a whole novel.

Official: a pair of claims counts only if both are judged right (chance 25 %): `pair_accuracy`, over the pairs of which both
were asked. The main metric is the accuracy of the single claims (chance 50 %), which any number of questions has.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stages.common.tokens import Message
from stages.evaluation.base import Benchmark, BrokenRow, Loaded, LoadRequest, Question
from stages.evaluation.rows import questions_of, read_rows
from stages.evaluation.scoring import guarded, true_or_false
from stages.evaluation.sources import RowSource

_SOURCE = RowSource(folders=("nocha", "nocha_sample"), patterns=("*.claims.jsonl",))
_FORM = "Answer with TRUE or FALSE only."
_ANSWER_TOKENS = 16


def _prompt(claim: str, context: str) -> list[Message]:
    content = f"<book>\n{context}\n</book>\n\nIs this claim about the book true or false?\n{claim}\n{_FORM}"
    return [{"role": "user", "content": content}]


def _parse(book: Path, row: dict[str, Any]) -> Question:
    claim, gold = row["claim"], str(row["type"]).lower()
    if gold not in ("true", "false"):
        raise ValueError(f"the type {row['type']!r} is neither true nor false")
    score = partial(true_or_false, gold=gold)
    return Question(
        benchmark="nocha",
        id=f"{row['book_title']}-{row['index']}-{gold}",
        task_type="reading_comprehension",
        question=f"Is this claim about the book true or false? {claim}",
        answer_form=_FORM,
        gold=gold.upper(),
        context=partial(Path, book),
        prompt=partial(_prompt, claim),
        metric="accuracy",
        score=score,
        more_metrics={"guarded": partial(guarded, score=score, golds=[gold], question=claim)},
        answer_tokens=_ANSWER_TOKENS,
        groups={"book": str(row["book_title"])},
        pair=f"{row['book_title']}-{row['index']}",
    )


def _load(request: LoadRequest) -> Loaded:
    questions: list[Question] = []
    broken: list[BrokenRow] = []
    for path in _SOURCE.files(request):
        book = path.with_name(path.name.replace(".claims.jsonl", ".txt"))
        if not book.is_file():
            broken.append(BrokenRow(path.name, f"the book {book.name} is not beside it"))
            continue
        rows, bad = read_rows(path)
        loaded = questions_of(rows, partial(_parse, book), bad)
        questions += loaded.questions
        broken += loaded.broken
    return Loaded(questions[: request.limit], broken)


NOCHA = Benchmark(
    name="nocha",
    title="NoCha: true or false claims about a novel",
    source="github marzenakrp/nocha (claims MIT); the books beside the claims",
    available=_SOURCE.available,
    load=_load,
)
