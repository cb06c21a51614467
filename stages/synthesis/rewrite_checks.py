"""Proof that a rewritten question asks what the template asked, by programs alone.

Kept letter by letter: quoted and bracketed parts, every number, every name, and every text of the proof that the template
shows (entities, attributes, periods, values). Kept in kind: the asked-for thing (who, when, how many, which COUNTRY) and
every constraint (largest, before, not, at least, average, ...); none may be lost, none may be added. Every other word that
carries meaning must stay as well, and few may be new: a rewrite moves and joins, it does not retell. The answer must not
appear, and it must still be re-derived from the evidence. Too strict on purpose: what fails keeps its template.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from stages.common.records import AnswerKind, QAPair
from stages.common.text import collapse_blanks
from stages.synthesis.rederive import rederive
from stages.synthesis.selection import evidence_text

_LENGTHS = (0.4, 2.0)  # of the template's, and a few characters more
_VERBATIM = re.compile(r'"[^"]+"|“[^”]+”|`[^`]+`|\([^()]*\)')
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?%?")
_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_UNSAFE = re.compile(r"[<>{}`\[\]\n]|https?://|\b(?:ignore|disregard)\b.{0,40}\binstructions?\b", re.IGNORECASE)
_NUMBER_WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|half|twice|double|hundred"
_ASKED = re.compile(
    r"\b(who|whom|whose|when|where|why|how many|how much|how (?:high|large|big|great|long)|which|what)\b", re.IGNORECASE
)
_ASKED_NOUN = re.compile(r"\b(?:which|what)\s+(?:(?:is|are|was|were)\s+(?:the\s+)?)?([a-z]+)")

_STEM = 5  # letters by which "imports" and "imported" are one word
_NEW_WORDS = 3
# Words that a question can gain or lose without asking something else.
_EMPTY_WORDS = (
    "what which whose when where that this these those there then than with have been were would could does given gives "
    "give stand stands stood figure figures number value entry says said stated state states called known name named "
    "according also such into onto upon they them their among consider a an the of in on at to for by as and is it its "
    "was are be who how has had did do if so up out let say but s"
)
_EMPTY_STEMS = frozenset(word[:_STEM] for word in _EMPTY_WORDS.split())

_CONSTRAINTS = {
    "at most": r"at most|no more than|not more than|up to|or less|or fewer|or under",
    "at least": r"at least|no less than|no fewer than|or more|or over",
    "largest": r"largest|highest|greatest|biggest|longest|maximum|most|top",
    "smallest": r"smallest|lowest|fewest|shortest|minimum|least",
    "latest": r"latest|last|newest|most recent|final",
    "earliest": r"earliest|first|oldest",
    "second": r"second",
    "third": r"third",
    "not": r"not|no|never|without|except|excluding|neither|nor|other than|n't|unlike",
    "before": r"before|prior to|earlier than|until|preceding|previous",
    "after": r"after|later than|following|since|succeeding|next",
    "between": r"between|from",
    "more": r"more than|over|above|exceed(?:s|ed|ing)?|greater than|higher than|larger than|longer than",
    "less": r"less than|below|under|fewer than|lower than|smaller than|shorter than",
    "sum": r"total|sum|combined|together|altogether|overall",
    "average": r"average|mean",
    "median": r"median",
    "difference": r"difference|differs?|gap|change[ds]?|by how much",
    "ratio": r"ratio|share|proportion|times|fraction",
    "growth": r"growth|gr[eo]w\w*|increase\w*|rise\w*|rose",
    "decline": r"decline\w*|decrease\w*|fell|fall\w*|drop\w*|shrank",
    "count": r"how many|number of|count",
    "each": r"each|every|all|both",
    "only": r"only|solely|exclusively",
    "or": r"or|either",
    "rounded": r"round\w*|nearest|decimals?",
    "percent": r"per ?cent\w*",
    "thousand": r"thousands?",
    "million": r"millions?",
    "billion": r"billions?",
    "year": r"years?|annual\w*|yearly",
    "month": r"months?|monthly",
    "day": r"days?|daily",
    "border": r"border\w*|neighbou?r\w*",
}
# Longer phrases first: "at most" must not count as "most".
_CONSTRAINT = re.compile(
    "|".join(rf"(?P<c{index}>\b(?:{pattern})\b)" for index, pattern in enumerate(_CONSTRAINTS.values())), re.IGNORECASE
)


def rewrite_refusal(template: QAPair, rewritten: QAPair) -> str | None:
    """Why the rewritten question cannot replace the template; None if it can."""
    old, new = template.question, rewritten.question
    shortest, longest = (share * len(old) for share in _LENGTHS)
    if not shortest - 20 <= len(new) <= longest + 20 or new[-1:] != old.rstrip()[-1:]:
        return "form"
    if set(_UNSAFE.findall(new)) - set(_UNSAFE.findall(old)):
        return "unsafe_text"
    if Counter(_VERBATIM.findall(old)) != Counter(_VERBATIM.findall(new)):
        return "quotes_changed"
    if _numbers(old) != _numbers(new):
        return "numbers_changed"
    if any(text.casefold() not in new.casefold() for text in _proof_texts(template)):
        return "proof_text_lost"
    if not _same_names(old, new):
        return "names_changed"
    if _constraints(old) != _constraints(new):
        return "constraints_changed"
    if _asked(old) != _asked(new):
        return "other_thing_asked"
    if not _same_matter(old, new):
        return "matter_changed"
    if _shows_answer(template, new) and not _shows_answer(template, old):
        return "answer_in_question"
    if rederive(rewritten, evidence_text(rewritten)) != template.answer:
        return "not_rederivable"
    return None


def _numbers(text: str) -> Counter[str]:
    """Digits and number words. One that stands alone ("one of") is a word."""
    words = re.findall(rf"\b(?:{_NUMBER_WORDS}|one(?= decimal))\b", text.lower())
    return Counter([*(number.rstrip(",") for number in _NUMBER.findall(text)), *words])


def _same_names(old: str, new: str) -> bool:
    """Every name of either question stands in the other as often; where a sentence begins, any word has a capital."""
    before, after = _words(old), _words(new)
    return all(before[name] == after[name] for name in _names(old) | _names(new))


def _words(text: str) -> Counter[str]:
    return Counter(re.sub(r"['’]s$", "", word) for word in _WORD.findall(text))


def _names(text: str) -> set[str]:
    """Words with a capital, but for the first of a sentence, without a possessive s."""
    found = set()
    for match in _WORD.finditer(text):
        before = text[: match.start()].rstrip()
        if any(character.isupper() for character in match[0]) and before and before[-1] not in ".?!:":
            found.add(re.sub(r"['’]s$", "", match[0]))
    return found


def _constraints(text: str) -> Counter[str]:
    """How often each kind of constraint stands outside quotes and brackets."""
    names = list(_CONSTRAINTS)
    found = _CONSTRAINT.finditer(_VERBATIM.sub(" ", text))
    return Counter(names[int(str(match.lastgroup)[1:])] for match in found)


def _same_matter(old: str, new: str) -> bool:
    """Every word of the template that carries meaning stands in the rewrite as often, and few others do.

    As often: "the class extended by the class extended by X" is one step further than "the class extended by X".
    """
    before, after = _stems(old), _stems(new)
    added = [stem for stem in after if stem not in before]
    return all(before[stem] == after[stem] for stem in before) and len(added) <= max(_NEW_WORDS, len(before) // 3)


def _stems(text: str) -> Counter[str]:
    """Beginnings of the words that carry meaning: no quotes, constraints, small or empty words."""
    plain = _CONSTRAINT.sub(" ", _VERBATIM.sub(" ", text.lower()))
    stems = (word[:_STEM] for word in re.findall(r"[^\W\d_]+", plain))
    return Counter(stem for stem in stems if stem not in _EMPTY_STEMS)


def _asked(text: str) -> tuple[str, set[str]]:
    """The question word (which and what are one) and what directly follows: "which country", "what is the country"."""
    plain = _VERBATIM.sub(" ", text)
    word = _ASKED.search(plain)
    kind = word[1].lower() if word else ""
    nouns = {noun[:_STEM] for noun in _ASKED_NOUN.findall(plain.lower())} - _EMPTY_STEMS
    of_what = kind in ("which", "what") or (kind.startswith("how ") and kind not in ("how many", "how much"))
    return "what" if of_what else kind, nouns


def _shows_answer(pair: QAPair, question: str) -> bool:
    if pair.answer_kind is AnswerKind.LETTER:
        return False
    answers = pair.answer if isinstance(pair.answer, list) else [pair.answer]
    words = _plain(question)
    return any(_plain(answer) in words for answer in answers)


def _plain(text: str) -> str:
    """Lower-case words between single blanks, with a blank at both ends."""
    return " ".join(["", *re.findall(r"[\w.]+", text.lower()), ""])


def _proof_texts(pair: QAPair) -> set[str]:
    """Texts of the proof, of three characters and more, that the template's question shows."""
    shown = pair.question.casefold()
    return {text for text in _texts(pair.proof) if len(text) >= 3 and text.casefold() in shown}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield collapse_blanks(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
