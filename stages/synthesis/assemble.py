"""Context extension over all questions: survey the corpus, then a context per question (contexts.py).

    documents -> survey (a map over shards) -> arrays on disk -> contexts (a map over shards of questions) -> samples.jsonl

A sample stores its context as references (document ids, spans, order), 14,100 of them as little as 50 MB; `documents.jsonl`
holds the documents they refer to, once each. Shards are cut by content, so the number of workers changes nothing.

Departure: the paper inserts whole documents; here those that are longer than `max_span_tokens` give long spans.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from stages.common.errors import NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Category, Dropped, QAPair, Record, Sample, TaskType
from stages.common.resumable import JsonLinesResults, ParquetResults, resumable_map
from stages.common.seeds import rng
from stages.common.shards import ProcessExecutor, SerialExecutor, ShardExecutor
from stages.common.storage import DocumentStore, iter_records, write_json, write_jsonl
from stages.common.tokens import TokenCounter
from stages.synthesis.config import AssembleConfig, AssembleStage
from stages.synthesis.context_parts import Assembled
from stages.synthesis.context_summary import ContextTally
from stages.synthesis.contexts import ContextMaker
from stages.synthesis.lengths import LengthDistribution
from stages.synthesis.line_tokens import LineCounter
from stages.synthesis.survey import Survey, document_shards, shard_key, survey_shard, write_survey

log = logging.getLogger(__name__)

_SPARE_DOCUMENTS = 64  # beyond those referred to, for verify's extra distractors
_QUESTIONS_PER_SHARD = 100
_COUNTED_WHOLE_EVERY = 200  # one sample of so many, and the first of a shard
_KEPT_DOCUMENTS = 1024
# Below this, starting worker processes costs more than they save.
_SERIAL_BYTES, _SERIAL_TOKENS = 16_000_000, 4_000_000
_PROBED_DOCUMENTS, _PROBES = 12, 4


class Outcome(Record):
    """What became of one question, as a line of a shard's result."""

    sample: Sample | None = None
    dropped: Dropped | None = None
    positions: list[float] = Field(default_factory=list)


@dataclass(frozen=True)
class Setup:
    """What a worker opens once."""

    documents: tuple[Path, ...]
    survey: Path
    tokenizer: Path
    limits: AssembleConfig
    seed: int
    counts_add_up: bool


def run(
    config: AssembleStage,
    inputs: Mapping[str, Path],
    out_dir: Path,
    state_dir: Path,
    emit: Emit,
    executor: ShardExecutor | None = None,
) -> dict[str, int]:
    """Assemble every task's questions. NotEnoughDataError if no question of a task fits into a context.

    executor: where the map steps run; by default this machine's processes, or this one alone for little work.
    """
    del emit
    limits = config.assemble
    LengthDistribution.with_mean(limits.min_context_tokens, limits.mean_context_tokens, limits.max_context_tokens)
    paths = document_paths(inputs["documents"])
    questions = {task: _in_order(iter_records(inputs[task], QAPair)) for task in TaskType}
    tokenizer = inputs["tokenizer"]
    TokenCounter(tokenizer)  # a missing file is told before any work
    asked = sum(map(len, questions.values()))
    small = sum(path.stat().st_size for path in paths if path.is_file()) < _SERIAL_BYTES
    few = asked * limits.mean_context_tokens < _SERIAL_TOKENS

    _survey(executor or _local(small), paths, tokenizer, state_dir)
    documents = DocumentStore(paths, cached_documents=_KEPT_DOCUMENTS)
    survey = Survey(state_dir / "survey")
    counts_add_up = _counts_add_up(documents, survey, tokenizer, config.seed)
    setup = Setup(tuple(paths), state_dir / "survey", tokenizer, limits, config.seed, counts_add_up)
    log.info("%d documents surveyed, %d questions", len(survey), asked)

    tally = ContextTally()
    outcomes = _contexts(executor or _local(small and few), setup, questions, state_dir)
    write_jsonl(out_dir / "samples.jsonl", _samples(outcomes, tally))
    for task, pairs in questions.items():
        if not tally.samples_of(task):
            raise NotEnoughDataError(
                f"{task}: none of {len(pairs)} questions fits into assemble.max_span_tokens = "
                f"{limits.max_span_tokens} and max_context_tokens = {limits.max_context_tokens}. Raise them, or add "
                "documents with shorter sections."
            )
        log.info("%s: %d of %d questions have a context", task, tally.samples_of(task), len(pairs))
    write_jsonl(out_dir / "dropped.jsonl", tally.dropped)
    kept = documents_to_keep(tally.used, documents, config.seed)
    write_jsonl(out_dir / "documents.jsonl", (documents[document_id] for document_id in kept))
    summary = tally.summary(len(kept))
    write_json(out_dir / "summary.json", summary)
    counts: dict[str, int] = summary["counts"]
    return counts


def document_paths(folder: Path) -> list[Path]:
    """The files of ingest's data folder that hold documents."""
    kinds = [category for category in Category if category is not Category.DIALOGUES]
    return [*(folder / "documents" / f"{category}.jsonl" for category in kinds), folder / "dialogues/dialogues.jsonl"]


def _local(little_work: bool) -> ShardExecutor:
    return SerialExecutor() if little_work else ProcessExecutor()


def _in_order(pairs: Iterator[QAPair]) -> list[QAPair]:
    """By first evidence document, so that neighbours share documents, then by id."""
    return sorted(pairs, key=lambda pair: (pair.evidence[0].document_id if pair.evidence else "", pair.id))


def _survey(executor: ShardExecutor, paths: Sequence[Path], tokenizer: Path, state_dir: Path) -> None:
    tables = resumable_map(
        executor,
        functools.partial(survey_shard, tokenizer_json=tokenizer),
        document_shards(paths),
        state_dir / "survey_shards",
        key=functools.partial(shard_key, tokenizer_json=tokenizer),
        results=ParquetResults(),
    )
    write_survey(tables, state_dir / "survey")


def _counts_add_up(documents: DocumentStore, survey: Survey, tokenizer: Path, seed: int) -> bool:
    """Whether counts of lines add up for this tokenizer, tried on excerpts of documents all over the corpus."""
    counter = TokenCounter(tokenizer)
    lines = LineCounter(counter)
    for document_id in survey.ids[:: max(1, len(survey) // _PROBED_DOCUMENTS)]:
        text = documents[document_id].text
        counted = lines.segments(text)
        chance = rng(seed, "probe", document_id)
        for _ in range(_PROBES if counted.segments else 0):
            first = chance.randrange(counted.segments)
            last = min(counted.segments - 1, first + chance.randrange(40))
            if counted.of_run(first, last) != lines.recount(counted, text, first, last):
                log.info("this tokenizer merges across lines: every context is counted as a whole")
                return False
    return True


def _contexts(
    executor: ShardExecutor, setup: Setup, questions: Mapping[TaskType, Sequence[QAPair]], state_dir: Path
) -> Iterator[Sequence[Outcome]]:
    shards = (
        tuple(pairs[start : start + _QUESTIONS_PER_SHARD])
        for pairs in questions.values()
        for start in range(0, len(pairs), _QUESTIONS_PER_SHARD)
    )
    return resumable_map(
        executor,
        functools.partial(assemble_shard, setup=setup),
        shards,
        state_dir / "contexts",
        key=functools.partial(_shard_name, setup=setup),
        results=JsonLinesResults(Outcome),
    )


def _shard_name(pairs: Sequence[QAPair], setup: Setup) -> str:
    digest = hashlib.sha256("".join(pair.model_dump_json() for pair in pairs).encode()).hexdigest()
    return f"contexts 1 {digest} {setup}"


@functools.lru_cache(maxsize=1)
def _maker(setup: Setup) -> ContextMaker:
    """Opened once per worker process."""
    documents = DocumentStore(setup.documents, cached_documents=_KEPT_DOCUMENTS)
    return ContextMaker(
        documents,
        Survey(setup.survey),
        TokenCounter(setup.tokenizer),
        setup.limits,
        setup.seed,
        counts_add_up=setup.counts_add_up,
    )


def assemble_shard(pairs: Sequence[QAPair], setup: Setup) -> list[Outcome]:
    """The map step: an outcome per question. Some contexts are counted as a whole; if one differs, all are."""
    maker = _maker(setup)
    outcomes = []
    for number, pair in enumerate(pairs):
        made = maker.make(pair)
        if isinstance(made, Assembled):
            tried = setup.counts_add_up and (number == 0 or _is_chosen(pair.id))
            if tried and maker.exact_tokens(made.sample) != made.sample.context_tokens:
                return assemble_shard(pairs, replace(setup, counts_add_up=False))
            outcomes.append(Outcome(sample=made.sample, positions=list(made.positions)))
        else:
            record = pair.model_dump(mode="json")
            outcomes.append(
                Outcome(dropped=Dropped(reason="evidence_too_long", stage="assemble", detail=made, record=record))
            )
    return outcomes


def _is_chosen(sample_id: str) -> bool:
    return int(hashlib.sha256(sample_id.encode()).hexdigest()[:8], 16) % _COUNTED_WHOLE_EVERY == 0


def _samples(shards: Iterator[Sequence[Outcome]], tally: ContextTally) -> Iterator[Sample]:
    for outcomes in shards:
        for outcome in outcomes:
            if outcome.sample is not None:
                tally.keep(outcome.sample, outcome.positions)
                yield outcome.sample
            elif outcome.dropped is not None:
                tally.drop(outcome.dropped)


def documents_to_keep(used: set[str], documents: DocumentStore, seed: int) -> list[str]:
    """Ids of all documents that contexts refer to and a bounded number of others, in file order."""
    spare = [document_id for document_id in documents if document_id not in used]
    rng(seed, "spare").shuffle(spare)
    keep = used | set(spare[:_SPARE_DOCUMENTS])
    return [document_id for document_id in documents if document_id in keep]
