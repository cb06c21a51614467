"""What a proposed question must stand before any model is asked again: everything that a program can tell.

A quote that does not occur, an answer that stands in the question or is not borne by the quotes, a question that only
makes sense beside its excerpt, instructions to a reader: each is a drop with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.common.records import AnswerKind, Evidence
from stages.common.text import collapse_blanks
from stages.rewards.rules import normalise, numbers_in
from stages.synthesis.self_evolve_prompts import Excerpt, Proposal, Quote
from stages.synthesis.self_evolve_proof import answer_in_question, supported

Refusal = tuple[str, str]  # (reason, what was seen)

_QUESTION_CHARACTERS = (20, 500)
_QUOTE_CHARACTERS = (20, 600)
_MAX_QUOTES = 6
_MAX_ANSWER_WORDS, _MAX_ANSWER_CHARACTERS = 12, 120

_UNSAFE = re.compile(
    r"[<>{}`]|\[\[|\]\]|https?://|\b(?:system|assistant|user)\s*:|\bas an ai\b"
    r"|\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|above|previous|prompt)\b",
    re.IGNORECASE,
)
_BESIDE_ITS_EXCERPT = re.compile(
    r"\b(?:document|excerpt|passage|text)s?\s+(?:\d+|one|two|three|four|five|above|below)\b"
    r"|\b(?:the|this|these|both|above|given|provided)\s+(?:\w+\s+)?(?:documents?|excerpts?|passages?)\b"
    r"|\b(?:the|this)\s+(?:above|given|provided|quoted)\s+text\b|\baccording to the text\b",
    re.IGNORECASE,
)
_GUESSABLE = frozenset({"yes", "no", "true", "false", "both", "neither", "unknown", "none", "not stated"})
_NUMBER_ANSWER = re.compile(r"[-−$€£¥]{0,2}\s?\d[\d,]*(?:\.\d+)?(?:\s?%|\s?[A-Za-z]{2,})?")
_LOOKALIKES = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00a0": " ", "‹": "<"}
)


def check(proposal: Proposal, excerpts: Sequence[Excerpt], documents_needed: int) -> list[Evidence] | Refusal:
    """The located evidence of a proposal, or why it is dropped. documents_needed: that the quotes must come from."""
    question, answer = collapse_blanks(proposal.question), collapse_blanks(proposal.answer)
    refused = _question_refused(question) or _answer_refused(answer, question)
    if refused is not None:
        return refused
    if not 0 < len(proposal.quotes) <= _MAX_QUOTES:
        return "number_of_quotes", f"{len(proposal.quotes)} quotes"
    evidence = []
    for quote in proposal.quotes:
        found = locate(quote, excerpts)
        if found is None:
            return "quote_not_found", f"document {quote.document}: {quote.text[:200]!r}"
        evidence.append(found)
    evidence = without_overlaps(evidence)
    if len({item.document_id for item in evidence}) < documents_needed:
        return "too_few_documents", f"{documents_needed} documents are to be read for this level"
    if not supported(answer, [item.quote for item in evidence]):
        return "answer_not_in_quotes", f"{answer!r} is not what the quotes say"
    return evidence


def _question_refused(question: str) -> Refusal | None:
    shortest, longest = _QUESTION_CHARACTERS
    if not shortest <= len(question) <= longest or not question.endswith("?"):
        return "no_question", question[:200]
    if _UNSAFE.search(question):
        return "unsafe_text", question[:200]
    if _BESIDE_ITS_EXCERPT.search(question):
        return "refers_to_excerpt", question[:200]
    return None


def _answer_refused(answer: str, question: str) -> Refusal | None:
    plain = normalise(answer)
    short = len(answer) <= _MAX_ANSWER_CHARACTERS and len(answer.split()) <= _MAX_ANSWER_WORDS
    if not short or (len(plain) < 2 and not plain.isdigit()):
        return "no_short_answer", answer[:200]
    if plain in _GUESSABLE:
        return "guessable_answer", answer[:200]
    if _UNSAFE.search(answer):
        return "unsafe_text", answer[:200]
    if answer_in_question(answer, question):
        return "answer_in_question", f"{answer!r} in {question[:200]!r}"
    return None


def kind_of(answer: str) -> AnswerKind:
    """A single number with at most one unit word is compared as a number, all else as text."""
    is_number = _NUMBER_ANSWER.fullmatch(answer) is not None and len(numbers_in(answer)) == 1
    return AnswerKind.NUMBER if is_number else AnswerKind.TEXT


def locate(quote: Quote, excerpts: Sequence[Excerpt]) -> Evidence | None:
    """Where the quote stands in its excerpt, blanks and typographic look-alikes aside; None if nowhere."""
    if not 1 <= quote.document <= len(excerpts):
        return None
    shortest, longest = _QUOTE_CHARACTERS
    wanted = quote.text.strip().strip("\"'“”").strip()
    if not shortest <= len(wanted) <= longest:
        return None
    excerpt = excerpts[quote.document - 1]
    pattern = r"\s+".join(re.escape(word) for word in wanted.translate(_LOOKALIKES).split())
    found = re.search(pattern, excerpt.text.translate(_LOOKALIKES))
    if found is None:
        return None
    return Evidence(
        document_id=excerpt.document_id,
        start=excerpt.start + found.start(),
        end=excerpt.start + found.end(),
        quote=excerpt.text[found.start() : found.end()],
    )


def without_overlaps(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The evidence without spans that lie inside others, in order of documents and places."""
    ordered = sorted(evidence, key=lambda item: (item.document_id, item.start, -item.end))
    kept: list[Evidence] = []
    for item in ordered:
        if not kept or item.document_id != kept[-1].document_id or item.end > kept[-1].end:
            kept.append(item)
    return kept
