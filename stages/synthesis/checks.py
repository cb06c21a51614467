"""Programmatic checks on assembled samples: each returns None to keep, or (reason, detail) to drop.

They need no model and always run on every sample. What they hold: the evidence is what the documents say, the context
shows it, the question does not give its answer away, the answer follows from the evidence, and the context states no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stages.common.records import AnswerKind, QAPair, Sample, Span
from stages.common.storage import DocumentStore
from stages.common.text import collapse_blanks
from stages.synthesis.mentions import NOT_MENTIONED
from stages.synthesis.rederive import rederive
from stages.synthesis.uniqueness import answer_is_unique

Refusal = tuple[str, str]  # (reason, what was seen)
Check = Callable[[Sample, DocumentStore], Refusal | None]

_WORDS = re.compile(r"\w+")
_MIN_COMPARED_CHARACTERS = 2
# They look at a turn that is unique in its document, and at its neighbours.
_NEED_NO_WHOLE_WINDOW = frozenset({"speaker_of", "reply_to"})


def quotes_equal_spans(sample: Sample, documents: DocumentStore) -> Refusal | None:
    """Every quote is exactly the characters of its span."""
    for evidence in sample.evidence:
        if evidence.document_id not in documents:
            return "unknown_document", f"there is no document {evidence.document_id!r}"
        length = len(documents[evidence.document_id].text)
        if not evidence.start < evidence.end <= length or documents.text_of(evidence) != evidence.quote:
            return (
                "quote_differs",
                f"{evidence.document_id}[{evidence.start}:{evidence.end}] is not {evidence.quote[:80]!r}",
            )
    return None if sample.evidence else ("no_evidence", "the sample cites nothing")


def evidence_in_context(sample: Sample, documents: DocumentStore) -> Refusal | None:
    """Every evidence span, and the window of a dialogue question, lies inside one span of the context."""
    del documents
    needed: list[Span] = list(sample.evidence)
    if sample.proof.get("window") is not None:
        needed.append(Span.model_validate(sample.proof["window"]))
    for span in needed:
        if not any(contains(shown, span) for shown in sample.context):
            return "evidence_not_in_context", f"{span.document_id}[{span.start}:{span.end}] is not in the context"
    return None


def window_is_alone(sample: Sample, documents: DocumentStore) -> Refusal | None:
    """No turn of the conversation is shown beyond the window in which turns are counted, compared or missed."""
    if sample.proof.get("window") is None or sample.proof.get("kind") in _NEED_NO_WHOLE_WINDOW:
        return None
    window = Span.model_validate(sample.proof["window"])
    title = documents[window.document_id].title
    for span in sample.context:
        if span.document_id == window.document_id and (span.start, span.end) != (window.start, window.end):
            return "turns_ambiguous", f"{span.document_id}[{span.start}:{span.end}] is more than the window"
        if span.document_id != window.document_id and documents[span.document_id].title == title:
            return "turns_ambiguous", f"{span.document_id} has the same title {title!r}"
    return None


def answer_not_in_question(sample: Sample, documents: DocumentStore) -> Refusal | None:
    """A text answer must not stand in the question (short scraps are left to re-derivation)."""
    del documents
    if gives_answer_away(sample):
        return "answer_in_question", f"{sample.answer!r} stands in the question"
    return None


def gives_answer_away(pair: QAPair) -> bool:
    """True if the question holds the words of its text answer.

    Not for "not mentioned", which questions with and without an answer offer alike: it tells nothing.
    """
    if pair.answer_kind is not AnswerKind.TEXT:
        return False
    if pair.proof.get("kind") == "not_mentioned" and pair.answer == NOT_MENTIONED:
        return False
    answer = " ".join(_words(str(pair.answer)))
    return len(answer) >= _MIN_COMPARED_CHARACTERS and f" {answer} " in f" {' '.join(_words(pair.question))} "


def answer_is_rederived(sample: Sample, documents: DocumentStore) -> Refusal | None:
    """The proof, run again on the documents, gives the answer."""
    found = rederive(sample, documents.text_of)
    if found is None:
        return "not_rederivable", f"the proof of kind {sample.proof.get('kind')!r} does not hold"
    if found != sample.answer:
        return "rederived_differently", f"the proof gives {found!r}, the answer is {sample.answer!r}"
    if sample.proof.get("kind") == "title_of" and documents[sample.evidence[0].document_id].title != found:
        return "rederived_differently", f"the document is not titled {found!r}"
    return None


# In this order; the first refusal counts.
CHECKS: tuple[Check, ...] = (
    quotes_equal_spans,
    evidence_in_context,
    window_is_alone,
    answer_not_in_question,
    answer_is_rederived,
    answer_is_unique,
)


def refusal(sample: Sample, documents: DocumentStore) -> Refusal | None:
    """The first check that the sample fails, or None."""
    for check in CHECKS:
        refused = check(sample, documents)
        if refused is not None:
            return refused
    return None


def contains(outer: Span, inner: Span) -> bool:
    """True if `inner` lies inside `outer`."""
    return outer.document_id == inner.document_id and outer.start <= inner.start and inner.end <= outer.end


def _words(text: str) -> list[str]:
    return _WORDS.findall(collapse_blanks(text).lower())
