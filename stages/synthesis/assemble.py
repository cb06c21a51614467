"""Context extension (paper section 3): evidence excerpts, then irrelevant ones until the target length, shuffled.

Per question: the target is drawn uniformly from [min, max]_context_tokens; each evidence document gives an excerpt
around its spans; other documents' excerpts fill the rest; documents stand in random order, excerpts of one document in
the document's order. `context_tokens` is counted on the text that a model will see.

Departure: the paper inserts whole documents; `max_span_tokens` allows it, short contexts need excerpts. A context has
about three documents at least, so that finding the right one is always part of the task.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from stages.common.errors import ConfigError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.prompts import materialise_context
from stages.common.records import Category, Dropped, QAPair, Sample, Span, TaskType
from stages.common.seeds import rng
from stages.common.storage import DocumentStore, iter_records, write_json, write_jsonl
from stages.common.tokens import TokenCounter
from stages.synthesis.config import AssembleConfig, AssembleStage
from stages.synthesis.distractors import DistractorSource, Place, distractor
from stages.synthesis.excerpts import excerpts_over

log = logging.getLogger(__name__)

_FEWEST_EXCERPTS = 3
_SMALLEST_DISTRACTOR_TOKENS = 24
_TRIES_PER_SAMPLE = 60
_SPARE_DOCUMENTS = 64  # beyond those referred to, for verify's extra distractors

TooLong = str  # what was seen, for dropped.jsonl


def run(
    config: AssembleStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Assemble every task's questions. NotEnoughDataError if no question of a task fits into a context."""
    del state_dir, emit
    limits = config.assemble
    if limits.min_context_tokens > limits.max_context_tokens:
        raise ConfigError(
            f"assemble.min_context_tokens ({limits.min_context_tokens}) is above assemble.max_context_tokens "
            f"({limits.max_context_tokens}). Lower the first or raise the second."
        )
    documents = DocumentStore(document_paths(inputs["documents"]))
    counter = TokenCounter(inputs["tokenizer"])
    questions = {task: sorted(iter_records(inputs[task], QAPair), key=_id) for task in TaskType}
    source = DistractorSource(documents, chain.from_iterable(questions.values()))
    samples: list[Sample] = []
    dropped: list[Dropped] = []
    for task, pairs in questions.items():
        kept = _assemble_task(pairs, documents, source, counter, limits, config.seed, dropped)
        if not kept:
            raise NotEnoughDataError(
                f"{task}: none of {len(pairs)} questions fits into assemble.max_span_tokens = "
                f"{limits.max_span_tokens} and max_context_tokens = {limits.max_context_tokens}. Raise them, or add "
                "documents with shorter sections."
            )
        samples += kept
        log.info("%s: %d of %d questions have a context", task, len(kept), len(pairs))
    write_jsonl(out_dir / "samples.jsonl", samples)
    write_jsonl(out_dir / "dropped.jsonl", dropped)
    kept_documents = documents_to_keep(samples, documents, config.seed)
    write_jsonl(out_dir / "documents.jsonl", (documents[document_id] for document_id in kept_documents))
    summary = _summary(samples, dropped, len(kept_documents))
    write_json(out_dir / "summary.json", summary)
    counts: dict[str, int] = summary["counts"]
    return counts


def document_paths(folder: Path) -> list[Path]:
    """The files of ingest's data folder that hold documents."""
    kinds = [category for category in Category if category is not Category.DIALOGUES]
    return [*(folder / "documents" / f"{category}.jsonl" for category in kinds), folder / "dialogues/dialogues.jsonl"]


def _assemble_task(
    pairs: Sequence[QAPair],
    documents: DocumentStore,
    source: DistractorSource,
    counter: TokenCounter,
    limits: AssembleConfig,
    seed: int,
    dropped: list[Dropped],
) -> list[Sample]:
    kept = []
    for pair in pairs:
        made = assemble_sample(pair, documents, source, counter, limits, seed)
        if isinstance(made, Sample):
            kept.append(made)
        else:
            dropped.append(
                Dropped(reason="evidence_too_long", stage="assemble", detail=made, record=pair.model_dump(mode="json"))
            )
    return kept


@dataclass
class _Draft:
    """A context in the making: excerpts per document, and about how many tokens they take with their titles."""

    excerpts: dict[str, list[Span]]
    tokens: int

    def add(self, span: Span, tokens: int) -> None:
        self.excerpts.setdefault(span.document_id, []).append(span)
        self.tokens += tokens


def assemble_sample(
    pair: QAPair,
    documents: DocumentStore,
    source: DistractorSource,
    counter: TokenCounter,
    limits: AssembleConfig,
    seed: int,
) -> Sample | TooLong:
    """The question with its context, or what was too long about its evidence."""
    chance = rng(seed, "assemble", pair.id)
    target = chance.randint(limits.min_context_tokens, limits.max_context_tokens)
    parts = max(_FEWEST_EXCERPTS, -(-target // limits.max_span_tokens))
    share = max(_SMALLEST_DISTRACTOR_TOKENS, target // parts)
    draft = _evidence_excerpts(pair, documents, counter, limits, share, chance)
    if not isinstance(draft, _Draft):
        return draft
    if draft.tokens > limits.max_context_tokens:
        return f"the evidence takes {draft.tokens} tokens, a context holds {limits.max_context_tokens}"
    evidence_documents = len(draft.excerpts)
    size = min(share, limits.max_span_tokens)
    hard = rng(seed, "hard", pair.id).random() < limits.hard_distractors
    _add_distractors(draft, pair, documents, source.places(pair, chance, hard=hard), counter, size, target, chance)
    if draft.tokens < limits.min_context_tokens:  # the last excerpt ended at a line's end before the target
        more = source.places(pair, chance, hard=hard)
        _add_distractors(draft, pair, documents, more, counter, size, limits.max_context_tokens, chance)
    return _finish(pair, draft, evidence_documents, documents, counter, limits.max_context_tokens, seed)


def needed_spans(pair: QAPair) -> dict[str, list[tuple[int, int]]]:
    """What the context must hold, per document: the evidence and, for a dialogue, the window that is counted in."""
    spans: dict[str, list[tuple[int, int]]] = {}
    window: dict[str, Any] | None = pair.proof.get("window")
    if window is not None:
        spans[str(window["document_id"])] = [(int(window["start"]), int(window["end"]))]
    for evidence in pair.evidence:
        known = spans.setdefault(evidence.document_id, [])
        if not any(start <= evidence.start and evidence.end <= end for start, end in known):
            known.append((evidence.start, evidence.end))
    return spans


def _evidence_excerpts(
    pair: QAPair,
    documents: DocumentStore,
    counter: TokenCounter,
    limits: AssembleConfig,
    share: int,
    chance: random.Random,
) -> _Draft | TooLong:
    draft = _Draft({}, 0)
    for document_id, spans in needed_spans(pair).items():
        header = _header_tokens(document_id, documents, counter)
        budget = min(limits.max_span_tokens, max(1, share - header))
        if pair.proof.get("window"):
            budget = 1  # one turn more would change which turn is the N-th
        text = documents[document_id].text
        found = excerpts_over(text, spans, budget, limits.max_span_tokens, counter.offsets, chance)
        if found is None:
            characters = sum(end - start for start, end in spans)
            return f"{characters} characters of evidence in {document_id} exceed {limits.max_span_tokens} tokens"
        for excerpt in found:
            span = Span(document_id=document_id, start=excerpt.start, end=excerpt.end)
            draft.add(span, excerpt.tokens + header)
    return draft


def _add_distractors(
    draft: _Draft,
    pair: QAPair,
    documents: DocumentStore,
    places: Iterator[Place],
    counter: TokenCounter,
    size: int,
    target: int,
    chance: random.Random,
) -> None:
    """Other documents' excerpts of about `size` tokens until the target; the last one takes what is left."""
    for place in islice(places, _TRIES_PER_SAMPLE):
        left = target - draft.tokens
        if left < _SMALLEST_DISTRACTOR_TOKENS:
            return
        if place.document_id in draft.excerpts:
            continue
        header = _header_tokens(place.document_id, documents, counter)
        # What would be too little for one more excerpt goes to this one.
        budget = size if left >= size + 2 * header + _SMALLEST_DISTRACTOR_TOKENS else left
        budget -= header
        if budget < _SMALLEST_DISTRACTOR_TOKENS // 2:
            continue
        made = distractor(pair, place, documents, budget, counter.offsets, chance)
        if made is not None:
            draft.add(made[0], made[1] + header)


def _header_tokens(document_id: str, documents: DocumentStore, counter: TokenCounter) -> int:
    return counter.count(f'<document title="{documents[document_id].title}">\n\n</document>\n')


def _finish(
    pair: QAPair,
    draft: _Draft,
    evidence_documents: int,
    documents: DocumentStore,
    counter: TokenCounter,
    max_context_tokens: int,
    seed: int,
) -> Sample | TooLong:
    """Shuffle, count, and take away distractors again while the exact count is over the limit."""
    ids = list(draft.excerpts)
    while True:
        order = list(ids)
        rng(seed, "order", pair.id).shuffle(order)
        context = [span for document_id in order for span in sorted(draft.excerpts[document_id], key=_start)]
        sample = Sample(**dict(pair), context=context, context_tokens=0)
        tokens = counter.count(materialise_context(sample, documents))
        if tokens <= max_context_tokens:
            return sample.model_copy(update={"context_tokens": tokens})
        if len(ids) == evidence_documents:
            return f"the evidence takes {tokens} tokens, a context holds {max_context_tokens}"
        ids.pop()


def _id(pair: QAPair) -> str:
    return pair.id


def _start(span: Span) -> int:
    return span.start


def documents_to_keep(samples: Sequence[Sample], documents: DocumentStore, seed: int) -> list[str]:
    """Ids of all documents that contexts refer to and a bounded number of others, in file order."""
    used = {span.document_id for sample in samples for span in sample.context}
    spare = [document_id for document_id in documents if document_id not in used]
    rng(seed, "spare").shuffle(spare)
    keep = used | set(spare[:_SPARE_DOCUMENTS])
    return [document_id for document_id in documents if document_id in keep]


def _summary(samples: Sequence[Sample], dropped: Sequence[Dropped], documents: int) -> dict[str, Any]:
    tokens = sorted(sample.context_tokens for sample in samples)
    return {
        "counts": {"samples": len(samples), "dropped": len(dropped), "documents": documents},
        "dropped": dict(Counter(record.reason for record in dropped)),
        "samples_per_task": dict(Counter(str(sample.task_type) for sample in samples)),
        "context_tokens": {
            "min": tokens[0],
            "mean": round(sum(tokens) / len(tokens), 1),
            "median": tokens[len(tokens) // 2],
            "max": tokens[-1],
        },
        "documents_per_context": round(
            sum(len({span.document_id for span in sample.context}) for sample in samples) / len(samples), 2
        ),
    }
