"""LongBench v1 (Bai et al. 2023), English QA, retrieval and count, from the official rows or finished prompts.

Official: token F1 (QA), share of right integers (retrieval, count). The paper scores its five QA sets by
max(cover exact match, judge): that is the main metric here, F1 stands beside it.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from stages.common.tokens import Message
from stages.evaluation.base import Benchmark, Loaded, LoadRequest, Question
from stages.evaluation.benchmarks.longbench_v1_forms import prompt_of
from stages.evaluation.benchmarks.reading import qa_question
from stages.evaluation.rows import questions_of
from stages.evaluation.scoring import integer_share
from stages.evaluation.sources import RowSource

# Official output budgets (LongBench, config/dataset2maxlen.json).
_TOKENS = {
    "hotpotqa": 32, "2wikimqa": 32, "musique": 32, "narrativeqa": 128, "qasper": 128, "multifieldqa_en": 64,
    "passage_retrieval_en": 32, "passage_count": 32,
}  # fmt: skip
_COUNTED = ("passage_retrieval_en", "passage_count")
_SOURCE = RowSource(folders=("longbench_v1", "longbench_v1_mini"), patterns=("*.jsonl",))
# Tasks of the official archive that are not asked here (Chinese, summaries, examples in the prompt, code), and its second
# edition by length (files *_e.jsonl), whose rows are partly the same.
_NOT_ASKED = frozenset({
    "multifieldqa_zh", "dureader", "gov_report", "qmsum", "multi_news", "vcsum", "trec", "triviaqa", "samsum", "lsht",
    "passage_retrieval_zh", "lcc", "repobench-p",
})  # fmt: skip
_BY_LENGTH = "_e.jsonl:"

# A finished prompt: an instruction, the context, and the end that asks. What stands between the first two marks is cut.
_BEGIN = re.compile(
    r"(?:The following are given passages\.\n|answer briefly\.\n\n|Story: |Do not provide any explanation\.\n\nArticle: "
    r"|in total\?\n\n|abstract is from\.\n\n)"
)
_END = re.compile(
    r"\n\n(?:Answer the question based on the given passages| Answer the question based on the above article|Now, answer the following question|"
    r"Now, answer the question based on the story|Please enter the final count|The following is an abstract)"
)


def _split(prompt: str) -> tuple[str, str, str]:
    """(before, context, after) of a finished prompt. ValueError if it has none of the known forms."""
    begin = _BEGIN.search(prompt)
    ends = list(_END.finditer(prompt))
    if begin is None or not ends or ends[-1].start() <= begin.end():
        raise ValueError("the prompt has none of LongBench's forms")
    return prompt[: begin.end()], prompt[begin.end() : ends[-1].start()], prompt[ends[-1].start() :]


def _prompt(before: str, after: str, context: str) -> list[Message]:
    return [{"role": "user", "content": before + context + after}]


def _parse(row: dict[str, Any]) -> Question:
    task = row["dataset"]
    if task not in _TOKENS:
        raise ValueError(f"the task {task!r} is not one of {', '.join(_TOKENS)}")
    if "prompt" in row:
        before, context, after = _split(row["prompt"])
    else:
        context = row["context"]
        before, after = prompt_of(task, row["input"])
    if not context.strip():
        raise ValueError("no context")
    golds = list(row["answers"])
    name = str(row["id"] if "id" in row else row["_id"])
    asked = after.strip().removesuffix("Answer:").strip()
    single: dict[str, Any] = {"benchmark": f"longbench_v1/{task}", "answer_tokens": _TOKENS[task]}
    if task not in _COUNTED:
        question = asked.rsplit("Question:", 1)[-1].strip()
        made = qa_question(
            name=name, question=question, golds=golds, context=partial(str, context), task_type="qa", **single
        )
        return _with_prompt(made, before, after)
    (gold,) = golds
    return Question(
        id=name,
        task_type="retrieval",
        question=asked,
        answer_form="",
        gold=gold,
        context=partial(str, context),
        prompt=partial(_prompt, before, after),
        metric="integer_share",
        score=partial(integer_share, gold=gold),
        **single,
    )


def _with_prompt(question: Question, before: str, after: str) -> Question:
    return Question(**{**vars(question), "prompt": partial(_prompt, before, after)})


def _load(request: LoadRequest) -> Loaded:
    found, broken = _SOURCE.rows(request)
    rows = [(where, row) for where, row in found if row.get("dataset") not in _NOT_ASKED and _BY_LENGTH not in where]
    return questions_of(rows, _parse, broken, request.limit)


LONGBENCH_V1 = Benchmark(
    name="longbench_v1",
    title="LongBench v1, English: six QA sets, passage retrieval and count",
    source="the files of data.zip of hub zai-org/LongBench (MIT and sub-licences), or finished prompts",
    available=_SOURCE.available,
    load=_load,
)
