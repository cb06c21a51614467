"""Triples of running text: dated statements, stated causes, and phrases that only one document uses.

    "Israel joined the UN in 1949."          (document) --year of «Israel joined the UN in ____»--> 1949
    "X decreased due primarily to Y."        (document) --cause of «X decreased»--> Y
    "Alliance for Progress"                  (document) --mentions--> the phrase, for describing a document

A sentence is used only if it is short, holds exactly one year (or one cause mark) and no pronoun whose meaning lies elsewhere.
Phrases: every run of capitalised words, and every part of one, of every document is counted (as 64-bit hashes), so that a phrase
said to be in one document alone stands in no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from stages.common.records import Document
from stages.synthesis.triples import TripleRows, document_key

T = TypeVar("T")

MAX_SENTENCES = 20_000
MAX_STATEMENTS_PER_DOCUMENT = 60
MAX_CAUSES_PER_DOCUMENT = 60
MAX_PHRASES_PER_DOCUMENT = 80
MAX_WORDS = 6

_OPEN_ENDS = ("-", "'", "’", "'s", "’s")
_HANGING = re.compile(r"['’-].*$")

_SENTENCE = re.compile(r"[A-Z][^.!?;\n|#]{30,220}[.;](?=[ \n]|$)")
_YEAR = re.compile(r"\b(?:1[5-9]|20)[0-9]{2}\b")
_NUMBER = re.compile(r"[0-9]")
_VAGUE_START = re.compile(
    r"(?:It|He|She|They|This|That|These|Those|We|I|You|His|Her|Their|Its|Our|My|But|And|Also|However|For example|Such|There|Then|Thus|In addition|If|When|While|As|Note|See|Table|Figure|Such|Because|Although|Since|Where|Which|What|Why|How|Once|After|Before|Until|Unless|Both|Some|Many|Most|Another|Other|One|Here|Under|Any|No|Not|Each|All|So|Or|Nor|Yet|Still|Instead|Similarly|Furthermore|Moreover|Therefore|Finally|First|Second|Third)\b"
)
_VAGUE_INSIDE = re.compile(
    r"\b(?:he|she|they|this|these|those|I|you|my|your|above|below|respectively|following|former|latter)\b"
)
_CAUSE = re.compile(
    r"^(?P<effect>[A-Z][^,:()]{18,120}?),? (?:(?:is|was|were|are) )?(?:primarily |mainly |largely |principally )?(?:due (?:primarily |mainly |largely |principally )?to|driven (?:primarily |mainly )?by|caused (?:primarily |mainly )?by|because of|as a result of|attributable (?:primarily |mainly )?to)"
    r" (?P<cause>[a-z$0-9A-Z][^:()]{8,90}?)[.;]$"
)
_CAUSE_CUT = re.compile(r", (?:partially|partly|offset|and was|which|although|while|but|with|as well|however)\b")
_VAGUE_EFFECT = re.compile(
    r"(?:The|An?) (?:(?:year over year|overall|remaining|net) )?"
    r"(?:increase|decrease|change|growth|decline|improvement|difference|charge|loss|amount)s?\b|(?:\S+ ){0,3}\S+$"
)
_CAUSE_MARK = re.compile(r"\b(?:due to|driven by|caused by|because|as a result|attributable to|resulting)\b")
_VERB = re.compile(
    r"\b(?:was|were|is|are|had|has|have|became|began|won|met|took|made|led|came|went|fell|rose|saw|held|gave|\w{3,}ed)\b"
)
_EFFECT_VERB = re.compile(
    r"\b(?:increased|decreased|rose|fell|declined|grew|was|were|is|are|higher|lower|up|down|died|failed|suffered|became|change|changed|increase|decrease|growth|decline)\b"
)
_RUN = re.compile(
    r"\b[A-Z][\w’'-]*[a-z][\w’'-]*(?:[ \n](?:(?:of|for|the|and|in|on) )?[A-Z][\w’'-]*[a-z][\w’'-]*){1,11}"
)


def statement_triples(document: Document, name: str, head_type: str, rows: TripleRows, end_of_text: int) -> None:
    """Add the dated statements and stated causes before `end_of_text`, spread over the text."""
    dated: list[tuple[int, int, re.Match[str]]] = []
    causes: list[tuple[int, re.Match[str]]] = []
    for count, match in enumerate(_SENTENCE.finditer(document.text, 0, end_of_text)):
        if count >= MAX_SENTENCES:
            break
        sentence = match[0]
        if (
            _VAGUE_START.match(sentence)
            or _VAGUE_INSIDE.search(sentence)
            or (match.start() and document.text[match.start() - 1] not in " \n")
        ):
            continue
        years = list(_YEAR.finditer(sentence))
        if (
            len(years) == 1
            and not _NUMBER.search(sentence[: years[0].start()] + sentence[years[0].end() :])
            and len(sentence) <= 170
            and _VERB.search(sentence)
        ):
            dated.append((match.start(), match.end(), years[0]))
        cause = _CAUSE.match(sentence)
        if cause is not None and _is_effect(cause["effect"]):
            causes.append((match.start(), cause))
    for start, end, year in _spread(dated, MAX_STATEMENTS_PER_DOCUMENT):
        sentence = document.text[start:end]
        blanked = f"{sentence[: year.start()]}____{sentence[year.end() : -1]}"
        rows.add(
            head=document_key(document.id),
            head_name=name,
            head_type=head_type,
            document_id=document.id,
            relation=f"year of «{blanked}»",
            tail_text=year[0],
            tail_type="date",
            number=year[0],
            span=(start + year.start(), start + year.end()),
            evidence=[(start, end)],
            labels=[sentence[: year.start()], sentence[year.end() : -1]],
            rule="statement",
        )
    for start, cause in _spread(causes, MAX_CAUSES_PER_DOCUMENT):
        text = cause["cause"]
        cut = _CAUSE_CUT.search(text)
        text = text[: cut.start()] if cut else text
        if len(text.split()) > 14 or len(text) < 8:
            continue
        rows.add(
            head=document_key(document.id),
            head_name=name,
            head_type=head_type,
            document_id=document.id,
            relation=f"cause of «{cause['effect']}»",
            tail_text=text,
            tail_type="cause",
            span=(start + cause.start("cause"), start + cause.start("cause") + len(text)),
            evidence=[(start, start + cause.end())],
            labels=[cause["effect"]],
            rule="cause",
        )


def _is_effect(text: str) -> bool:
    """True if the words say on their own what happened ("The increase" does not)."""
    return (
        _EFFECT_VERB.search(text) is not None and _VAGUE_EFFECT.match(text) is None and _CAUSE_MARK.search(text) is None
    )


def _spread(found: list[T], limit: int) -> list[T]:
    """At most `limit` of a list, evenly."""
    if len(found) <= limit:
        return found
    return [found[index * len(found) // limit] for index in range(limit)]


def phrase_triples(
    document: Document, name: str, head_type: str, rows: TripleRows, end_of_text: int
) -> npt.NDArray[np.uint64]:
    """Add phrases that may describe the document (before `end_of_text`); returns the sorted hashes of every phrase in it."""
    hashes: set[int] = set()
    candidates: dict[str, tuple[int, int]] = {}
    for match in _RUN.finditer(document.text):
        words = match[0].split()
        for phrase in _parts(words):
            hashes.add(phrase_hash(phrase))
        whole = " ".join(words)
        start = match.start()
        after_stop = start < 2 or document.text[start - 2] in ".!?:\n#|" or document.text[start - 1] in '\n"“'
        if after_stop or not 8 <= len(whole) <= 50 or "\n" in match[0] or len(words) > MAX_WORDS:
            continue  # the first word of a sentence is a capital anyway
        if start >= end_of_text or "--" in whole or any(word.endswith(_OPEN_ENDS) for word in words):
            continue
        candidates.setdefault(whole, match.span())
    named = set(name.casefold().split())
    usable = [
        (phrase, span)
        for phrase, span in candidates.items()
        if not any(word.casefold() in named for word in phrase.split())
    ]
    for phrase, (start, end) in _spread(usable, MAX_PHRASES_PER_DOCUMENT):
        left, right = _sentence_around(document.text, start, end)
        rows.add(
            head=document_key(document.id),
            head_name=name,
            head_type=head_type,
            relation="mentions",
            tail_text=phrase,
            tail_type="phrase",
            document_id=document.id,
            span=(start, end),
            evidence=[(left, right)],
            labels=[],
            rule="phrase",
        )
    return np.array(sorted(hashes), dtype=np.uint64)


def phrase_hashes(document: Document) -> npt.NDArray[np.uint64]:
    """The sorted hashes of every phrase of a document that is not described itself: its phrases count against others."""
    hashes = {phrase_hash(phrase) for match in _RUN.finditer(document.text) for phrase in _parts(match[0].split())}
    return np.array(sorted(hashes), dtype=np.uint64)


def _parts(words: list[str]) -> Iterator[str]:
    """Every run of two words and more, each also without what hangs on its last word (`Corps's`, `Corps-led`)."""
    for first in range(len(words)):
        for last in range(first + 2, min(first + MAX_WORDS, len(words)) + 1):
            yield " ".join(words[first:last])
            bare = _HANGING.sub("", words[last - 1])
            if bare != words[last - 1] and bare:
                yield " ".join([*words[first : last - 1], bare])


def phrase_hash(phrase: str) -> int:
    """64 bits of a phrase, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), "big")


def _sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentence (at most 300 characters) that holds [start, end)."""
    low = max(0, start - 150)
    left = max(text.rfind(". ", low, start) + 2, text.rfind("\n", low, start) + 1)
    if left <= low:
        blank = text.find(" ", low, start)
        left = blank + 1 if blank >= 0 else start
    high = min(len(text), end + 150)
    stops = [position for position in (text.find(". ", end, high), text.find("\n", end, high)) if position >= 0]
    if stops:
        return left, min(stops)
    blank = text.rfind(" ", end, high)
    return left, blank if blank > end else end
