"""The nouns of evaluation: a Question in a mode, a Benchmark that makes Questions, the Prediction that a model gave.

A benchmark knows where its data are, how a question is put and how an answer is scored; it never talks to a model. The
engine side (asking.py) knows nothing of any benchmark. One question, asked in three modes:

    full_context   one prompt with the whole context; what is too long loses its middle
    memory_agent   the context read chunk by chunk into a memory, the answer from the memory alone
    closed_book    the question without its context: what the model knew already
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stages.common.chat import ChatReply
from stages.common.chat import Message as ChatMessage
from stages.common.records import Record
from stages.common.storage import DocumentStore
from stages.common.tokens import Message

Mode = Literal["full_context", "memory_agent", "closed_book"]
MODES: tuple[Mode, ...] = ("full_context", "memory_agent", "closed_book")

Context = str | Path  # the text, or a UTF-8 file that is too large to be held
Score = Callable[[str], float]  # a response, its reasoning taken off, to [0, 1]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a language model decides whether a response is right.

    messages: the judge's prompt for a response.
    verdict: its reply to True or False; ChatFailedError (malformed) if it decided nothing.
    decides_alone: the verdict is the benchmark's score (LongMemEval); else the score is max(rule, verdict).
    """

    messages: Callable[[str], Sequence[ChatMessage]]
    verdict: Callable[[ChatReply], bool]
    decides_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """A second call whose reply is scored in place of the first one's (LongBench v2 with reasoning, number extraction).

    messages: made of the whole first response. The context is not sent again unless they hold it.
    """

    messages: Callable[[str], list[Message]]
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark; the mode in which it is asked is chosen by the plan.

    benchmark: row of the score table, such as `longbench_v2`, `ruler/niah_single_1/4096`.
    id: unique within the benchmark, stable over runs and machines.
    question: what is asked, with its options and without its context, as shown to readers and told to the agent.
    answer_form: how the answer is to be written; the agent sees it in its last prompt only.
    gold: for readers, the judge and the files; scoring uses what `score` holds.
    context: makes the text that is read; called when the question is asked, so contexts are not all in memory.
    prompt: context -> messages of the single-pass prompt. It must work for any part of the context, also "".
    closed_book: messages without the context; None: question and answer_form.
    metric, score: the main score. It gets the response without reasoning (what follows `</think>`); reasoning that was
        never closed, and empty responses, are scored 0 without asking it. It never raises for any text.
    more_metrics: further scores of the same response by name, such as `f1`.
    answer_tokens: the benchmark's own output budget, without reasoning.
    answer_prefix: opens the assistant's turn (RULER); not part of the response that is scored.
    judge: None where the benchmark's rule alone decides.
    groups: values by which scores are also reported, such as {"difficulty": "hard", "length": "short"}.
    mean_over: a key of `groups` whose values' means are also averaged, each value counting once, such as LongMemEval's
        six types; None: there is none.
    pair: questions of one pair (NoCha's true and false claim) are right only together, `pair_accuracy` beside the score;
        None: it stands alone.
    evidence_position: where the first evidence begins in the context, 0 to 1; None if unknown.
    context_tokens: length of the context if the benchmark knows it (else it is counted when asked).
    modes: those in which this question can be asked, of its benchmark's; without its context closed book alone.
    """

    benchmark: str
    id: str
    task_type: str
    question: str
    answer_form: str
    gold: str | list[str]
    context: Callable[[], Context]
    prompt: Callable[[str], list[Message]]
    metric: str
    score: Score
    closed_book: Callable[[], list[Message]] | None = None
    more_metrics: Mapping[str, Score] = field(default_factory=dict)
    answer_tokens: int = 128
    answer_prefix: str = ""
    follow_up: FollowUp | None = None
    judge: Judge | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    mean_over: str | None = None
    pair: str | None = None
    evidence_position: float | None = None
    context_tokens: int | None = None
    modes: Sequence[Mode] = MODES

    def closed_book_messages(self) -> list[Message]:
        """The prompt without the context."""
        if self.closed_book is not None:
            return self.closed_book()
        return [{"role": "user", "content": f"{self.question}\n{self.answer_form}".rstrip()}]


@dataclass(frozen=True)
class BrokenRow:
    """A row of a benchmark file that cannot be used: kept with its place and reason, never fatal."""

    where: str  # file name and line, or split and index
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What a benchmark's data hold: its questions, and the rows that are no questions."""

    questions: list[Question]
    broken: list[BrokenRow] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What a benchmark may use to make its questions.

    data_dir: a folder of the user's (`--data`); a benchmark looks for `<data_dir>/<its name>/` and then `<data_dir>/`.
    use_hub: official data may be fetched from the Hugging Face hub by name.
    limit: questions wanted; None: all (a generator then makes its usual number).
    lengths: context lengths in tokens, for generators.
    seed: of everything random.
    count_tokens: of the model's tokenizer.
    documents: corpus that generators take their hay, dialogues and tables from; None: there is none.
    contexts_dir: where contexts that are too large to be held are written; None: a temporary folder.
    """

    data_dir: Path | None
    use_hub: bool
    limit: int | None
    lengths: tuple[int, ...]
    seed: int
    count_tokens: Callable[[str], int]
    documents: DocumentStore | None = None
    contexts_dir: Path | None = None


@dataclass(frozen=True)
class Availability:
    """Whether a benchmark can be asked now. reason: where its data are, or what is missing and how to get it."""

    at_hand: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark in plain sight: what it is, where its data come from, how its questions are made.

    name: as in `--benchmark NAME`.
    title: one line for `--list`.
    source: where the official data are (hub name, repository) and their licence.
    available: looks, and downloads nothing.
    load: the questions. InputError only for data that are unusable as a whole; broken rows are returned.
    modes: those that make sense.
    needs_judge: without a judge its main score is a stand-in, and its rows say so.
    context_missing: why some questions cannot be asked in every mode, and what to do about it.
    """

    name: str
    title: str
    source: str
    available: Callable[[LoadRequest], Availability]
    load: Callable[[LoadRequest], Loaded]
    modes: Sequence[Mode] = MODES
    needs_judge: bool = False
    context_missing: str = ""


class Prediction(Record):
    """One line of predictions.jsonl: one sample of one question in one mode. Texts are untrusted."""

    benchmark: str
    mode: Mode
    sample_id: str  # the question's id
    sample: int  # 0 .. k - 1
    task_type: str
    question: str
    gold: str | list[str]
    prediction: str  # without reasoning
    metric: str
    score: float  # what counts: rule, max(rule, judge) or the judge alone
    rule_score: float
    metrics: dict[str, float]  # further metrics of the benchmark
    judge: Literal["yes", "no", "failed"] | None  # None: not asked
    failure: str | None  # why there is no answer: a reason of ChatFailedError; None: there is one
    finish_reason: Literal["stop", "length"] | None
    prompt_tokens: int  # memory_agent: of all turns
    response_tokens: int
    context_tokens: int | None  # of the whole context, before it was cut
    context_cut: bool  # the middle was left out
    turns: int  # memory_agent: chunks read, else 0
    evidence_position: float | None
    groups: dict[str, str]
