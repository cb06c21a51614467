"""What single answers say beyond means: accuracy by place of the evidence and by length, and in which ways answers fail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages.report.load import AGENT, FIRST_MODEL, FULL_CONTEXT, LAST_MODEL, Prediction, iter_predictions
from stages.report.scores import Interval, wilson

POSITION_BINS = 5  # fifths of the context
FAILURES_SHOWN = 10
_KEPT_PER_KIND = FAILURES_SHOWN
_ECHO_WORDS = 3  # fewer may be an answer that the question happens to hold
_NUMBER = re.compile(r"\d")
_LETTER = re.compile(r"\b[A-Z]\b")


@dataclass(frozen=True)
class Failure:
    """A wrong answer of the last model and its kind; `line`: where it stands in predictions.jsonl, from 1."""

    kind: str
    line: int
    prediction: Prediction


@dataclass(frozen=True)
class FailureKind:
    """How often answers fail in one way, and how often the same question's context was cut, or the first model right."""

    kind: str
    count: int
    with_cut_context: int
    right_before: int


@dataclass(frozen=True)
class Answers:
    """Everything that is read from predictions.jsonl of the first and the last model.

    by_position, by_length: (label of the bin, in order) -> series ("base, full context") -> accuracy.
    """

    by_position: dict[str, dict[str, Interval]]
    by_length: dict[str, dict[str, Interval]]
    asked: int = 0  # answers of the last model
    kinds: tuple[FailureKind, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass
class _Tally:
    """Scores by bin and series while predictions pass by; a question's samples are averaged first."""

    scores: dict[tuple[int, str], dict[str, list[float]]] = field(default_factory=dict)

    def add(self, bin_number: int, series: str, prediction: Prediction) -> None:
        question = f"{prediction.benchmark} {prediction.sample_id}"
        self.scores.setdefault((bin_number, series), {}).setdefault(question, []).append(prediction.score)

    def intervals(self, label: Mapping[int, str]) -> dict[str, dict[str, Interval]]:
        table: dict[str, dict[str, Interval]] = {}
        for (number, series), questions in sorted(self.scores.items()):
            means = [sum(scores) / len(scores) for scores in questions.values()]
            table.setdefault(label[number], {})[series] = wilson(means)
        return table


def read_answers(inputs: Mapping[str, Path]) -> Answers:
    """One pass over the predictions of the first and of the last model. InputError for a damaged line."""
    positions, lengths = _Tally(), _Tally()
    right_before: set[tuple[str, str, str]] = set()
    for prediction in iter_predictions(inputs[f"evaluate_{FIRST_MODEL}"]):
        _place(FIRST_MODEL, prediction, positions, lengths)
        if prediction.score >= 0.5:
            right_before.add(_question(prediction))
    counts: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    before: Counter[str] = Counter()
    kept: dict[str, list[Failure]] = {}
    asked = 0
    for line, prediction in enumerate(iter_predictions(inputs[f"evaluate_{LAST_MODEL}"]), start=1):
        asked += 1
        _place(LAST_MODEL, prediction, positions, lengths)
        if prediction.score >= 0.5:
            continue
        kind = failure_kind(prediction)
        counts[kind] += 1
        cut[kind] += prediction.context_cut
        before[kind] += _question(prediction) in right_before
        if len(kept.setdefault(kind, [])) < _KEPT_PER_KIND:
            kept[kind].append(Failure(kind, line, prediction))
    order = sorted(counts, key=lambda kind: (-counts[kind], kind))
    used = sorted({number for number, _ in lengths.scores})
    return Answers(
        by_position=positions.intervals({i: _position_label(i) for i in range(POSITION_BINS)}),
        by_length=lengths.intervals({number: _length_label(number) for number in used}),
        asked=asked,
        kinds=tuple(FailureKind(kind, counts[kind], cut[kind], before[kind]) for kind in order),
        failures=tuple(_in_turns([kept[kind] for kind in order], FAILURES_SHOWN)),
    )


def _question(prediction: Prediction) -> tuple[str, str, str]:
    return prediction.benchmark, prediction.mode, prediction.sample_id


def _place(model: str, prediction: Prediction, positions: _Tally, lengths: _Tally) -> None:
    """Put one answer into its bins."""
    if prediction.mode not in (FULL_CONTEXT, AGENT) or prediction.failure is not None:
        return
    series = f"{model}, {prediction.mode.replace('_', ' ')}"
    if prediction.evidence_position is not None and prediction.mode == FULL_CONTEXT:
        positions.add(min(POSITION_BINS - 1, int(prediction.evidence_position * POSITION_BINS)), series, prediction)
    # The agent's prompts together are longer than its document, so only the document's own length will do there.
    tokens = prediction.context_tokens or (prediction.prompt_tokens if prediction.mode == FULL_CONTEXT else 0)
    if tokens > 0:
        lengths.add(tokens.bit_length(), series, prediction)


def _position_label(number: int) -> str:
    return f"{100 * number // POSITION_BINS}–{100 * (number + 1) // POSITION_BINS} %"


def _length_label(bits: int) -> str:
    """Lengths of so many bits: 10 -> `512–1K`."""

    def short(tokens: int) -> str:
        for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
            if tokens >= size:
                return f"{tokens // size}{unit}"
        return str(tokens)

    return f"{short(1 << (bits - 1))}–{short(1 << bits)}"


def failure_kind(prediction: Prediction) -> str:
    """In which way an answer is wrong, as far as its text tells; the first that fits."""
    text = prediction.prediction.strip()
    gold = prediction.gold if isinstance(prediction.gold, str) else " ".join(prediction.gold)
    if prediction.failure is not None:
        return f"no answer: {prediction.failure}"
    if not text:
        return "empty"
    if prediction.finish_reason == "length":
        return "cut off at the output limit"
    if len(_plain(text).split()) >= _ECHO_WORDS and f" {_plain(text)} " in f" {_plain(prediction.question)} ":
        return "repeats the question"
    if re.fullmatch(r"[A-Z]", gold.strip()):
        return "another option" if _LETTER.search(text) else "names no option"
    if isinstance(prediction.gold, str) and _NUMBER.search(gold):
        return "another number" if _NUMBER.search(text) else "gives no number"
    return "partly right" if prediction.score > 0 else "another answer"


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _in_turns(groups: Iterable[list[Failure]], count: int) -> list[Failure]:
    """One of each kind, then another of each, up to `count`."""
    queues = [list(group) for group in groups]
    chosen: list[Failure] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda failure: (failure.kind, failure.line))
