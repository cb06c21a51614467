"""General reading with checkable answers, over any documents (stage synthesize@reading_comprehension).

Eight families in `reading_families.py`: what comes after or last, how many, which document says a sentence, what a short
headed passage says; three of in-context learning in `in_context_labels.py`. They need no model; the paper's third generator,
multi-agent self-evolution (`self_evolve.py`), adds its questions where an endpoint is configured.

Choice among the candidates: families in turn, documents in turn within a family, three compact spans to one long one
(short contexts can hold only compact ones); a pattern that recurs in many documents ("Coastline" is followed by
"Maritime claims" in every country) is asked about twice at most, so that it cannot be learnt by heart.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path

from stages.common.metrics import Emit
from stages.common.records import Category, Document, Dropped, QAPair, Span, TaskType
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.drop_log import DropLog
from stages.synthesis.in_context_labels import LabelQuestions
from stages.synthesis.pairs import make_pair, quote_span, write_pairs
from stages.synthesis.reading_families import CODE_FAMILIES, FAMILIES, Candidate, which_document
from stages.synthesis.rederive import rederive
from stages.synthesis.self_evolve_stage import evolve_if_configured, write_evolution

_COMPACT_CHARACTERS = 360
_COMPACT_PER_DOCUMENT, _LONG_PER_DOCUMENT = 8, 3  # kept per document and family, so memory stays bounded
_SCANNED_PER_DOCUMENT = 400
_MAX_SAME_PATTERN = 2
_LABELS_SHARE = 0.12  # of the questions
_KEPT_DROPS_PER_REASON = 100


def run(
    config: SynthesizeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make reading questions. NotEnoughDataError if the documents yield too few."""
    del emit
    kinds = [category for category in Category if category is not Category.DIALOGUES]
    documents = DocumentStore([inputs["documents"] / f"{category}.jsonl" for category in kinds])
    drops = DropLog(_KEPT_DROPS_PER_REASON)
    pairs, dropped = make_questions(documents, config.generator.questions, config.seed, drops)
    evolution = evolve_if_configured(config, documents, pairs, state_dir)
    if evolution is not None:
        pairs, dropped = [*pairs, *evolution.pairs], [*dropped, *evolution.dropped]
    counts = write_pairs(out_dir, TaskType.READING_COMPREHENSION, pairs, dropped, config.generator, drops.not_kept)
    return counts | write_evolution(out_dir, evolution)


def make_questions(
    documents: DocumentStore, questions: int, seed: int, drops: DropLog | None = None
) -> tuple[list[QAPair], list[Dropped]]:
    """Up to `questions` pairs over all families, and what was left out with the reason; `drops` counts all of that."""
    drops = drops if drops is not None else DropLog(_KEPT_DROPS_PER_REASON)
    titles = Counter(documents[document_id].title for document_id in documents)
    by_family: dict[str, list[list[Candidate]]] = {name: [] for name in FAMILIES}
    labels = LabelQuestions(documents, seed)
    for document_id in documents:
        document = documents[document_id]
        if titles[document.title] > 1:
            drops.add("shared_title", partial(_shared_title, document))  # a question names its document by title
            continue
        labels.offer(document)
        for name, family in FAMILIES.items():
            if (document.category is Category.CODE) != (name in CODE_FAMILIES):
                continue  # a comment in code looks like a heading
            found = list(islice(family(document), _SCANNED_PER_DOCUMENT))
            by_family[name].append(_few(found, rng(seed, "reading", name, document_id)))
    repeated = _repeated_sentences(documents, chain.from_iterable(by_family["which_document"]))

    pairs: dict[str, QAPair] = {}
    patterns: Counter[tuple[str, str]] = Counter()
    queues: list[Iterable[Candidate]] = [
        _in_turn(per_document, rng(seed, "reading", name)) for name, per_document in by_family.items()
    ]
    queues.append(islice(labels.candidates(), round(_LABELS_SHARE * questions)))
    for candidate in _interleave(queues):
        if len(pairs) == questions:
            break
        reason = _refuse(candidate, patterns, repeated)
        if reason is not None:
            drops.add(reason[0], partial(_dropped, candidate, *reason))
            continue
        pair = _pair(candidate, documents, seed)
        if rederive(pair, documents.text_of) != pair.answer:
            refused = ("not_rederivable", "its evidence alone gives another answer")
            drops.add(refused[0], partial(_dropped, candidate, *refused))
            continue
        patterns[candidate.family, candidate.key] += 1
        pairs.setdefault(pair.id, pair)
    return list(pairs.values()), drops.kept


def _few(found: list[Candidate], chance: random.Random) -> list[Candidate]:
    """A bounded choice of one document's candidates: compact and long ones, three to one."""
    chance.shuffle(found)
    compact = [candidate for candidate in found if candidate.end - candidate.start <= _COMPACT_CHARACTERS]
    long = [candidate for candidate in found if candidate.end - candidate.start > _COMPACT_CHARACTERS]
    compact, long = compact[:_COMPACT_PER_DOCUMENT], long[:_LONG_PER_DOCUMENT]
    mixed = []
    while compact or long:
        mixed += compact[:3] + long[:1]
        compact, long = compact[3:], long[1:]
    return mixed


def _in_turn(per_document: list[list[Candidate]], chance: random.Random) -> list[Candidate]:
    """One candidate of every document, then a second of every document, ..., documents in random order."""
    chance.shuffle(per_document)
    return list(_interleave(per_document))


def _interleave(queues: Iterable[Iterable[Candidate]]) -> Iterator[Candidate]:
    for layer in zip_longest(*queues):
        yield from (candidate for candidate in layer if candidate is not None)


def _repeated_sentences(documents: DocumentStore, candidates: Iterable[Candidate]) -> set[str]:
    """Sentences of `which_document` candidates that another document also holds."""
    wanted = {str(candidate.proof["sentence"]): candidate.document_id for candidate in candidates}
    repeated = set()
    for document_id in documents:
        for other in which_document(documents[document_id]):
            sentence = str(other.proof["sentence"])
            if wanted.get(sentence, document_id) != document_id:
                repeated.add(sentence)
    return repeated


def _refuse(candidate: Candidate, patterns: Counter[tuple[str, str]], repeated: set[str]) -> tuple[str, str] | None:
    if candidate.proof.get("sentence") in repeated:
        return "not_unique", "the sentence occurs in several documents"
    if patterns[candidate.family, candidate.key] >= _MAX_SAME_PATTERN:
        return "same_pattern", f"asked {_MAX_SAME_PATTERN} times already: {candidate.key}"
    return None


def _dropped(candidate: Candidate, reason: str, detail: str) -> Dropped:
    return Dropped(
        reason=reason,
        stage="synthesize@reading_comprehension",
        detail=detail,
        record={"document_id": candidate.document_id, "question": candidate.question, "answer": candidate.answer},
    )


def _shared_title(document: Document) -> Dropped:
    return Dropped(
        reason="shared_title",
        stage="synthesize@reading_comprehension",
        detail=f"several documents are called {document.title[:200]!r}",
        record={"document_id": document.id},
    )


def _pair(candidate: Candidate, documents: DocumentStore, seed: int) -> QAPair:
    text = documents[candidate.document_id].text[candidate.start : candidate.end]
    end = candidate.start + len(text.rstrip())
    span = Span(document_id=candidate.document_id, start=candidate.start, end=end)
    return make_pair(
        task_type=TaskType.READING_COMPREHENSION,
        question=candidate.question,
        answer=candidate.answer,
        answer_kind=candidate.kind,
        evidence=[quote_span(documents, each) for each in (span, *candidate.others)],
        proof=dict(candidate.proof),
        generator=f"reading_comprehension/{candidate.family}",
        seed=seed,
    )
