"""In-context learning by rules alone: invented labels, a hidden rule that only the documents show, texts to be labelled.

Many short texts are quoted with a label each; texts from one place (a document among several, a section of one document, a
class of a repository) have the same label. Whoever finds the quoted texts sees the rule and can label the new ones.

Sound by construction: every quoted text stands once in its document and in no other of the question; places and labels
correspond one to one; no simpler rule explains the examples (in_context_rules.py; for documents neither the heading nor
how far down a text stands); distractors hold no quoted text (distractor_rules.py). Labels are drawn independently, so all
are equally likely, and two to four texts are to be labelled: guessing seldom pays, and no short answer covers all.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from stages.common.records import AnswerKind, Category, Document, Span
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.synthesis.in_context_places import Place, Quote, class_places, document_place, section_places, sentences
from stages.synthesis.in_context_proofs import label_question
from stages.synthesis.in_context_rules import by_kind, in_ranges, nearest, surface_rule
from stages.synthesis.in_context_words import invented_labels
from stages.synthesis.outline import classes, headings
from stages.synthesis.reading_families import Candidate
from stages.synthesis.selection import in_turn

_DRAWS = 4  # choices of texts that are tried per set of places and size
_ROUNDS = 8  # questions of one family that begin at one document, at most
_NEIGHBOURS = 7  # documents of a folder from which one question chooses
_FLAT_TEXTS, _DOCUMENTS = 128, 512  # kept in memory


@dataclass(frozen=True)
class Size:
    """How much one question shows; ranges are inclusive."""

    places: tuple[int, int]
    shots: tuple[int, int]  # per place
    asked: tuple[int, int]
    characters: int  # of all quoted texts
    apart: int  # characters per quoted text of one document, between the first and the last
    section: int  # characters of a section or class, from its opening to the last quoted text


# Few texts side by side fit into short contexts; many, far apart, are for long ones.
SIZES = (
    Size((3, 3), (2, 2), (2, 2), characters=640, apart=160, section=700),
    Size((3, 4), (3, 3), (2, 3), characters=1_400, apart=1_000, section=1_500),
    Size((4, 6), (4, 6), (3, 4), characters=2_200, apart=100_000, section=6_000),
)
_WEIGHTS = (4, 3, 3)
_MOST_QUOTES = 30
_LONGER = 1.25  # a quoted text may be so much longer than the mean that the limit leaves

FAMILIES = {"document": "labels_of_documents", "section": "labels_of_sections", "class": "labels_of_classes"}

PlacesOf = Callable[[str, random.Random], list[Place]]


class LabelQuestions:
    """Candidates over the documents of a store, made one by one as they are asked for."""

    def __init__(self, documents: DocumentStore, seed: int) -> None:
        self._documents = documents
        self._seed = seed
        self._prose: list[str] = []
        self._code: list[str] = []
        self._folders: dict[str, list[str]] = {}
        self._folder_of: dict[str, str] = {}
        self._flat = lru_cache(_FLAT_TEXTS)(self._lower_case_words)
        self._sentences = lru_cache(_DOCUMENTS)(self._all_sentences)
        self._classes = lru_cache(_DOCUMENTS)(self._all_classes)

    def offer(self, document: Document) -> None:
        """Let questions be made from a document. No other document may have its title."""
        if document.category is Category.CODE:
            self._code.append(document.id)
            return
        self._prose.append(document.id)
        folder = document.source.rpartition("/")[0]
        self._folders.setdefault(folder, []).append(document.id)
        self._folder_of[document.id] = folder

    def candidates(self) -> Iterator[Candidate]:
        """Questions of the three families in turn, documents in turn within a family."""
        return in_turn(
            [
                self._family("document", self._prose, self._neighbours),
                self._family("section", self._prose, self._sections),
                self._family("class", self._code, self._classes_of),
            ]
        )

    def _family(self, by: str, document_ids: Sequence[str], places_of: PlacesOf) -> Iterator[Candidate]:
        order = list(document_ids)
        rng(self._seed, FAMILIES[by]).shuffle(order)
        seen: set[tuple[str, frozenset[str]]] = set()
        for turn in range(_ROUNDS):
            fruitful = []
            for document_id in order:
                chance = rng(self._seed, FAMILIES[by], document_id, turn)
                made = self._first_new(by, places_of(document_id, chance), seen, chance)
                if made is not None:
                    fruitful.append(document_id)
                    yield made
            order = fruitful  # what gave nothing is not searched again

    def _first_new(
        self, by: str, places: Sequence[Place], seen: set[tuple[str, frozenset[str]]], chance: random.Random
    ) -> Candidate | None:
        """A question about a set of places that is asked about for the first time; None if no draw gives one."""
        drawn = chance.choices(range(len(SIZES)), _WEIGHTS)[0]
        for size in (*SIZES[drawn::-1], *SIZES[drawn + 1 :]):  # the drawn one, then smaller ones, then larger ones
            for _ in range(_DRAWS):
                made = self._draw(by, places, size, chance)
                if made is not None and (own := (made.document_id, frozenset(made.proof["labels"]))) not in seen:
                    seen.add(own)
                    return made
        return None

    # --- places

    def _all_sentences(self, document_id: str) -> tuple[Quote, ...]:
        document = self._documents[document_id]
        return sentences(document, headings(document.text))

    def _neighbours(self, document_id: str, chance: random.Random) -> list[Place]:
        """The document and others of its folder: of one kind, so that the wording tells little."""
        others = [other for other in self._folders[self._folder_of[document_id]] if other != document_id]
        chosen = [document_id, *chance.sample(others, min(len(others), _NEIGHBOURS))]
        return [document_place(self._documents[each], self._sentences(each)) for each in chosen]

    def _sections(self, document_id: str, chance: random.Random) -> list[Place]:
        document = self._documents[document_id]
        found = section_places(document, headings(document.text), self._sentences(document_id))
        return chance.sample(found, len(found))

    def _classes_of(self, document_id: str, chance: random.Random) -> list[Place]:
        found = self._classes(document_id)
        return chance.sample(found, len(found))

    def _all_classes(self, document_id: str) -> tuple[Place, ...]:
        document = self._documents[document_id]
        return tuple(class_places(document, classes(document.text)))

    # --- one question

    def _draw(self, by: str, places: Sequence[Place], size: Size, chance: random.Random) -> Candidate | None:
        """A question about the first places that have enough texts; None if they are too few or a rule refuses."""
        if len(places) < size.places[0]:
            return None
        number = chance.randint(size.places[0], min(size.places[1], len(places)))
        asked = [chance.randrange(number) for _ in range(chance.randint(*size.asked))]
        most = min(size.shots[1], (_MOST_QUOTES - len(asked)) // number)
        shots = chance.randint(min(size.shots[0], most), most)
        longest = int(_LONGER * size.characters / (number * shots + len(asked)))
        chosen: list[tuple[Place, list[Quote]]] = []
        for place in places:
            if len(chosen) == number:
                break
            quotes = _choose(place, shots + asked.count(len(chosen)), size, longest, chance)
            if quotes:
                chosen.append((place, quotes))
        if len(chosen) < number or sum(len(q.text) for _, quotes in chosen for q in quotes) > size.characters:
            return None
        return self._question(by, chosen, shots, asked, chance)

    def _question(
        self,
        by: str,
        chosen: Sequence[tuple[Place, list[Quote]]],
        shots: int,
        asked: Sequence[int],
        chance: random.Random,
    ) -> Candidate | None:
        """The question, the first `shots` texts of every place its examples; None if it would not be sound."""
        shown = [_Example(quote, place) for place, quotes in chosen for quote in quotes[:shots]]
        left = [iter(quotes[shots:]) for _, quotes in chosen]
        wanted = [_Example(next(left[index]), chosen[index][0]) for index in asked]
        if surface_rule([each.named for each in shown], [each.named for each in wanted]) is not None:
            return None
        if by == "document" and self._another_rule(shown, wanted):
            return None
        texts = [self._flat(document_id) for document_id in dict.fromkeys(place.document_id for place, _ in chosen)]
        quoted = [_flat(each.quote.text) for each in (*shown, *wanted)]
        if any(sum(text.count(quote) for text in texts) != 1 for quote in quoted):
            return None
        names = [place.name for place, _ in chosen]
        labels = dict(zip(names, invented_labels(len(names), texts, chance), strict=False))
        if len(labels) < len(names):
            return None
        chance.shuffle(shown)
        spans = _evidence(chosen)
        return Candidate(
            family=FAMILIES[by],
            document_id=spans[0].document_id,
            start=spans[0].start,
            end=spans[0].end,
            question=label_question(
                [(each.quote.text, labels[each.place.name]) for each in shown], [each.quote.text for each in wanted]
            ),
            answer=", ".join(labels[each.place.name] for each in wanted),
            kind=AnswerKind.TEXT,
            key=" ".join(quoted),
            proof={"kind": "labels", "by": by, "labels": labels},
            others=tuple(spans[1:]),
        )

    def _another_rule(self, shown: Sequence[_Example], wanted: Sequence[_Example]) -> bool:
        """True if the heading above a text, or how far down it stands, explains the examples and labels the others otherwise."""
        headed = by_kind([(each.quote.under, each.place.name) for each in shown], [each.quote.under for each in wanted])
        if headed is not None and headed != [each.place.name for each in wanted]:
            return True
        lengths = {each.place.document_id: len(self._documents[each.place.document_id].text) for each in shown}
        depths = [(each.quote.start / lengths[each.place.document_id], each.place.name) for each in shown]
        return in_ranges(depths) and any(
            nearest(depths, each.quote.start / lengths[each.place.document_id]) != each.place.name for each in wanted
        )

    def _lower_case_words(self, document_id: str) -> str:
        return _flat(self._documents[document_id].text)


@dataclass(frozen=True)
class _Example:
    """A text and where it stands, before places have labels."""

    quote: Quote
    place: Place

    @property
    def named(self) -> tuple[str, str]:
        """As in_context_rules.py takes it: the place's name does for its label."""
        return self.quote.text, self.place.name


def _choose(place: Place, number: int, size: Size, longest: int, chance: random.Random) -> list[Quote]:
    """So many texts of a place in random order, as near to each other as the size demands; empty if there are not enough."""
    fitting = [quote for quote in place.quotes if len(quote.text) <= longest]
    if place.begin is not None:
        fitting = [quote for quote in fitting if quote.end <= place.begin + size.section]
        return chance.sample(fitting, number) if len(fitting) >= number else []
    ends = [quote.end for quote in fitting]
    windows = []
    for index in range(len(fitting) - number + 1):
        beyond = bisect_right(ends, fitting[index].start + size.apart * number)
        if beyond - index >= number:
            windows.append((index, beyond))
    return chance.sample(fitting[slice(*chance.choice(windows))], number) if windows else []


def _evidence(chosen: Sequence[tuple[Place, list[Quote]]]) -> list[Span]:
    """A span per text, or per section or class from its opening to the last text; by document and place."""
    spans = set()
    for place, quotes in chosen:
        if place.begin is None:
            spans |= {(place.document_id, quote.start, quote.end) for quote in quotes}
        else:
            spans.add((place.document_id, place.begin, max(quote.end for quote in quotes)))
    return [Span(document_id=document_id, start=start, end=end) for document_id, start, end in sorted(spans)]


def _flat(text: str) -> str:
    """Lower case, single blanks: a repetition in other letters or over two lines is one, too."""
    return " ".join(text.lower().split())
