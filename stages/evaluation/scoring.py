"""Scoring rules of the published benchmarks: pure functions of a response to [0, 1].

As published, with these departures, all against answers that say nothing: an empty response scores 0 everywhere; cover
exact match looks at the final answer without the repeated question and gives 0 to one that is 100 words longer than the
gold answer, so that copying the context earns nothing. Rules that pay for a copy of the context (RULER, BFCL,
NoCha, BABILong) stay as published; `guarded` stands beside them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from stages.common.text import final_answer
from stages.rewards.hybrid import MAX_EXTRA_WORDS, without_question
from stages.rewards.rules import cover_exact_match, normalise

_INTEGER = re.compile(r"\d+")
_LONGBENCH_V2 = (re.compile(r"The correct answer is \(([A-D])\)"), re.compile(r"The correct answer is ([A-D])"))
_MMLU_PRO = (re.compile(r"answer is \(?([A-J])\)?"), re.compile(r".*[aA]nswer:\s*([A-J])", re.DOTALL))
_LONE_LETTER = re.compile(r"\b[A-J]\b")
_MAX_ROUGE_TOKENS = 2_000


def covers(response: str, golds: Sequence[str], question: str) -> float:
    """Cover exact match, strict form, the best of the gold answers (paper, section 5)."""
    prediction = without_question(final_answer(response), question)
    words = len(normalise(prediction).split())
    fitting = [gold for gold in golds if words <= len(normalise(gold).split()) + MAX_EXTRA_WORDS]
    return max((cover_exact_match(prediction, gold) for gold in fitting), default=0.0)


def guarded(response: str, score: Callable[[str], float], golds: Sequence[str], question: str) -> float:
    """The published score of a response without the repeated question; 0 if it is 100 words longer than all golds together.

    For rules that look whether the gold strings occur anywhere, so that a copy of the context scores 1.
    """
    rest = without_question(response, question)
    words = sum(len(normalise(gold).split()) for gold in golds)
    return score(rest) if len(normalise(rest).split()) <= words + MAX_EXTRA_WORDS else 0.0


def exact_match(response: str, golds: Sequence[str]) -> float:
    """1 if the normalised final answer is a normalised gold answer (SQuAD, HotpotQA, MuSiQue)."""
    prediction = normalise(final_answer(response))
    return float(bool(prediction) and any(prediction == normalise(gold) for gold in golds))


def token_f1(response: str, golds: Sequence[str]) -> float:
    """F1 of the bags of normalised tokens, the best of the gold answers (SQuAD, LongBench v1)."""
    return max((_f1(normalise(response).split(), normalise(gold).split()) for gold in golds), default=0.0)


def hotpot_f1(response: str, golds: Sequence[str]) -> float:
    """token_f1, but yes, no and "noanswer" must match exactly (HotpotQA)."""
    prediction = normalise(response)
    special = {"yes", "no", "noanswer"}
    fitting = [gold for gold in golds if prediction == normalise(gold) or not {prediction, normalise(gold)} & special]
    return token_f1(response, fitting)


def _f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    common = sum((Counter(prediction) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def rouge_l(response: str, golds: Sequence[str]) -> float:
    """ROUGE-L F1 on blank-separated lower-case tokens, the best of the gold texts (LongBench v1 summaries)."""
    tokens = response.lower().split()[:_MAX_ROUGE_TOKENS]
    return max((_rouge_l(tokens, gold.lower().split()[:_MAX_ROUGE_TOKENS]) for gold in golds), default=0.0)


def _rouge_l(left: Sequence[str], right: Sequence[str]) -> float:
    if not left or not right:
        return 0.0
    row = [0] * (len(right) + 1)  # longest common subsequence, one row at a time
    for word in left:
        diagonal = 0
        for column, other in enumerate(right, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    common = row[-1]
    return 0.0 if common == 0 else 2 * common / (len(left) + len(right))


def integer_share(response: str, gold: str) -> float:
    """Share of the integers in the response that are the gold one (LongBench v1 retrieval and count): extra ones cost.

    >>> integer_share("Paragraph 3, or 4", "Paragraph 3")
    0.5
    """
    numbers, wanted = _INTEGER.findall(response), _INTEGER.findall(gold)
    return sum(number == wanted[0] for number in numbers) / len(numbers) if numbers and wanted else 0.0


def longbench_v2_letter(response: str, gold: str) -> float:
    """The first "The correct answer is (X)", else without brackets; case-sensitive, no match is wrong."""
    text = response.replace("*", "")
    found = next((match for pattern in _LONGBENCH_V2 if (match := pattern.search(text))), None)
    return float(found is not None and found[1] == gold)


def mmlu_pro_letter(response: str, gold: str, question: str = "") -> float:
    """The letter after "answer is", else after the last "Answer:", else the last lone capital A to J.

    question: cut out where the response repeats it, since its options end with a lone capital.
    """
    response = without_question(response, question)
    found = next((match[1] for pattern in _MMLU_PRO if (match := pattern.search(response))), None)
    if found is None:
        lone = _LONE_LETTER.findall(response)
        found = lone[-1] if lone else None
    return float(found == gold)


def babilong_label(response: str, target: str, labels: Sequence[str], question: str) -> float:
    """The task's labels in the first sentence, less those that the question names, are exactly the target's.

    >>> babilong_label("The kitchen. Or the garden.", "kitchen", ["kitchen", "garden"], "Where is Mary?")
    1.0
    """
    first, asked = response.lower().split(".")[0], question.lower()
    wanted = {part.strip().lower() for part in target.split(",")}
    found = {label.lower() for label in labels if re.search(rf"\b{re.escape(label.lower())}\b", first)}
    named = {label.lower() for label in labels if re.search(rf"\b{re.escape(label.lower())}\b", asked)}
    return float(bool(found - named) and found - named == wanted)


def bfcl_memory(response: str, golds: Sequence[str]) -> float:
    """Any possible answer, bounded by word boundaries, after removing , . / - _ * ^ ( ) and lower-casing."""
    text = _bfcl(response)
    return float(any(gold and re.search(rf"\b{re.escape(gold)}\b", text) for gold in map(_bfcl, golds)))


def _bfcl(text: str) -> str:
    return re.sub(r"[,./\-_*^()]", "", text).lower().replace("'", '"')


def true_or_false(response: str, gold: str) -> float:
    """The last TRUE or FALSE of the response is the gold one (NoCha); a last line with both is no answer."""
    lines = [line for line in response.lower().splitlines() if re.search(r"\b(?:true|false)\b", line)]
    found = set(re.findall(r"\b(true|false)\b", lines[-1])) if lines else set()
    return float(found == {gold.lower()})
