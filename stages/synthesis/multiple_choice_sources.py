"""What multiple-choice questions are made of: questions of the other generators, with options.

computed, figure   numerical questions whose answer is a number   (wrong: figures of the same kind, plausible mistakes)
entity             which of four entities has the largest, second-largest ... figure, or grew fastest
name               a named value ("Algiers")                      (wrong: the same attribute of other entities)
heading            reading questions on the order of headings     (wrong: other headings of the document)
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from random import Random
from typing import Any

import duckdb

from stages.common.records import AnswerKind, Category, Document, QAPair, Span, TaskType
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.common.text import collapse_blanks
from stages.synthesis.facts import Fact
from stages.synthesis.multiple_choice_options import (
    Deal,
    count_options,
    number_options,
    text_options,
    written,
)
from stages.synthesis.multiple_choice_proofs import LETTERS
from stages.synthesis.naming import naming_facts
from stages.synthesis.numerical import computed_answer
from stages.synthesis.numerical_draft import Draft, measure_phrase, of_entities, ordinal
from stages.synthesis.numerical_figures import Figure
from stages.synthesis.numerical_pools import Pools, distinct, mixed
from stages.synthesis.numerical_proofs import decimals_of, evidence_spans, figure_row
from stages.synthesis.outline import headings
from stages.synthesis.pairs import make_pair, quote_span
from stages.synthesis.phrasing import which_name
from stages.synthesis.proofs import fact_row
from stages.synthesis.reading_families import Candidate, heading_after
from stages.synthesis.selection import spread_facts

# Families whose answer is a small whole number, and what bounds it.
COUNTS = ("count_above", "count_between", "count_where", "rising_count", "rows_above", "rising_rows", "rank_position")
YEARS = (
    "peak_year",
    "trough_year",
    "largest_step_year",
    "first_year_above",
    "years_above",
    "longest_rise",
    "years_ahead",
)
_COMPACT_CHARACTERS = 2000
_PER_DOCUMENT = 24
# Headings whose order can be guessed: numbered ones, and "Author: ..." at the head of a book.
_ORDERED = re.compile(
    r"^(?:[0-9]|chapter\b|part\b|section\b|appendix\b|(?:title|author|year|date)\b)", re.IGNORECASE | re.M
)


@dataclass(frozen=True)
class Maker:
    """What all sources need to turn an answer and its wrong options into a question."""

    store: DocumentStore
    connection: duckdb.DuckDBPyConnection
    deal: Deal  # of questions with numbers
    letters: Deal  # of questions with texts, whose options have no rank
    seed: int

    def question(
        self,
        question: str,
        right: str,
        wrong: Sequence[str],
        position: int,
        spans: Sequence[Span],
        proof: Any,
        family: str,
    ) -> QAPair:
        """The QAPair with the right option at `position`."""
        return make_pair(
            task_type=TaskType.MULTIPLE_CHOICE,
            question=question,
            answer=LETTERS[position],
            answer_kind=AnswerKind.LETTER,
            choices=[*wrong[:position], right, *wrong[position:]],
            evidence=[quote_span(self.store, span) for span in spans],
            proof={"kind": "option", "option": right, "of": proof},
            generator=f"multiple_choice/{family}",
            seed=self.seed,
        )


def number_questions(
    drafts: Iterator[Draft], siblings: dict[tuple[str, ...], list[Figure]], maker: Maker, family: str
) -> Iterator[QAPair]:
    """Numerical drafts with four options. Wrong ones: the figures read, others of the same measure or column."""
    chance = rng(maker.seed, "options", family)
    for draft in drafts:
        answer = computed_answer(draft, maker.connection)
        if answer is None or draft.family in YEARS:
            continue
        try:
            right = Decimal(answer)
        except ArithmeticError:
            continue
        dealt = maker.deal()
        rank, position = dealt
        decimals = draft.decimals if draft.rounded and draft.decimals is not None else decimals_of(right)
        wrong: Sequence[Decimal] | None
        if draft.family in COUNTS:
            entities = len({(figure.entity, figure.fact_attribute) for figure in draft.figures})
            entities = len({figure.entity for figure in draft.figures}) if _by_entity(draft) else entities
            low = 1 if draft.family == "rank_position" else 0
            counts = count_options(int(right), low, entities, rank, chance)
            wrong = [Decimal(count) for count in counts] if counts is not None else None
        else:
            most = Decimal(100) if right <= 100 and _is_share(draft) else None
            wrong = number_options(right, decimals, _figures_nearby(draft, siblings), rank, chance, most)
        if wrong is None:
            maker.deal.give_back(dealt)
            continue
        proof = {
            "kind": "sql",
            "sql": draft.sql,
            "rows": [figure_row(figure) for figure in dict.fromkeys(draft.figures)],
        }
        texts = [written(value, decimals) for value in chance.sample(wrong, len(wrong))]
        yield maker.question(
            draft.question, written(right, decimals), texts, position, evidence_spans(draft.figures), proof, family
        )


def _is_share(draft: Draft) -> bool:
    """True if more than 100 would be absurd: shares of a total, and percentages that are all below 100."""
    rates = [figure for figure in draft.figures if figure.unit.startswith("%")]
    return draft.family == "share_of_total" or (bool(rates) and all(abs(figure.value) <= 100 for figure in rates))


def _by_entity(draft: Draft) -> bool:
    return draft.family not in ("rows_above", "rising_rows")


def _figures_nearby(draft: Draft, siblings: dict[tuple[str, ...], list[Figure]]) -> list[Decimal]:
    """Numbers that a careless reader might take: of the same measure or column, in the asked unit."""
    if draft.rounded or draft.decimals is None:
        return []
    found: dict[Figure, None] = dict.fromkeys(draft.figures)
    if len(draft.figures) == 1:
        found |= dict.fromkeys(siblings.get(sibling_key(draft.figures[0]), ()))
    unit = draft.figures[-1].unit
    return [figure.value / draft.factor for figure in found if figure.unit == unit]


def sibling_key(figure: Figure) -> tuple[str, ...]:
    """Figures that share it are of one kind: a table's column, or a heading's attribute in one unit."""
    if figure.is_cell:
        return (figure.document_id, str(figure.table), str(figure.column), figure.unit, str(figure.factor))
    return (figure.measure, figure.period, figure.unit)


def siblings_of(figures: Sequence[Figure]) -> dict[tuple[str, ...], list[Figure]]:
    """Figures by `sibling_key`."""
    found: defaultdict[tuple[str, ...], list[Figure]] = defaultdict(list)
    for figure in figures:
        found[sibling_key(figure)].append(figure)
    return found


def entity_questions(pools: Pools, maker: Maker) -> Iterator[QAPair]:
    """Which of the four has the n-th largest figure; the entities are the options."""
    chance = rng(maker.seed, "options", "entity")
    for group in mixed([panel for panel in pools.panels if len(panel) >= len(LETTERS)], chance):
        chosen = chance.sample(group, len(LETTERS))
        if not distinct(chosen) or len({_bare(figure.entity) for figure in chosen}) < len(LETTERS):
            continue
        n = chance.choice([1, 1, 2])
        order, word = chance.choice([("DESC", "largest"), ("ASC", "smallest")])
        ranked = sorted(chosen, key=lambda figure: figure.value, reverse=order == "DESC")
        if abs(ranked[n - 1].value - ranked[n].value) * 200 < abs(ranked[n - 1].value):
            continue  # nearer than half a percent: the unit's rounding might decide
        right = ranked[n - 1]
        what = measure_phrase(right)
        question = chance.choice(
            [
                f"Which of the four has the {ordinal(n)}{word} figure for {what}?",
                f"Compare the figures for {what}. Whose is the {ordinal(n)}{word}?",
            ]
        )
        sql = f"SELECT {of_entities(chosen, 'entity', f' ORDER BY value {order} LIMIT 1 OFFSET {n - 1}')}"
        proof = {"kind": "sql", "sql": sql, "rows": [figure_row(figure) for figure in chosen]}
        wrong = [figure.entity for figure in chance.sample(chosen, len(chosen)) if figure is not right]
        yield maker.question(question, right.entity, wrong, maker.letters()[1], evidence_spans(chosen), proof, "entity")


def _bare(entity: str) -> str:
    """A company without the filing: two filings of one company are no two options."""
    return entity.split(" (", maxsplit=1)[0].casefold()


def name_questions(names: Sequence[Fact], maker: Maker) -> Iterator[QAPair]:
    """A named value; wrong ones are the same attribute's values of other entities, most alike in length."""
    facts = naming_facts(list(names))
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in facts:
        groups[fact.key].append(collapse_blanks(fact.text))
    chance = rng(maker.seed, "options", "name")
    for fact in spread_facts(facts, rng(maker.seed, "choice", "name")):
        right = collapse_blanks(fact.text)
        others = [text for text in dict.fromkeys(groups[fact.key]) if text[:1].isupper() == right[:1].isupper()]
        others.sort(key=lambda text: (abs(len(text.split()) - len(right.split())), abs(len(text) - len(right)), text))
        wrong = text_options(right, others[:16], chance)
        if wrong is None:
            continue
        proof = {"kind": "named_value", "row": fact_row(fact)}
        spans = [Span(document_id=item.document_id, start=item.start, end=item.end) for item in fact.evidence]
        yield maker.question(f"{which_name(fact)}?", right, wrong, maker.letters()[1], spans, proof, "name")


def heading_questions(store: DocumentStore, maker: Maker) -> Iterator[QAPair]:
    """Which heading follows another; wrong ones are other headings of the document."""
    titles = Counter(store[document_id].title for document_id in store)
    chance = rng(maker.seed, "options", "heading")
    order = [document_id for document_id in store if titles[store[document_id].title] == 1]
    chance.shuffle(order)
    waiting = [(key, found) for key in order if (found := _heading_candidates(store[key], chance))]
    while waiting:
        for document_id, found in waiting:
            candidate, wrong = found.pop()
            text = store[document_id].text[candidate.start : candidate.end]
            span = Span(document_id=document_id, start=candidate.start, end=candidate.start + len(text.rstrip()))
            yield maker.question(
                candidate.question, candidate.answer, wrong, maker.letters()[1], [span], candidate.proof, "heading"
            )
        waiting = [(document_id, found) for document_id, found in waiting if found]


def _heading_candidates(document: Document, chance: Random) -> list[tuple[Candidate, list[str]]]:
    """Questions on one document's headings, each with its wrong options."""
    if document.category in (Category.CODE, Category.DIALOGUES):
        return []
    titles = [
        title
        for title in dict.fromkeys(heading.title for heading in headings(document.text))
        if not _ORDERED.search(title)
    ]
    candidates = [
        candidate
        for candidate in islice(heading_after(document), 400)
        if candidate.end - candidate.start <= _COMPACT_CHARACTERS
        and not _ORDERED.search(f"{candidate.proof['heading']}\n{candidate.answer}")
    ]
    made = []
    for candidate in chance.sample(candidates, min(_PER_DOCUMENT, len(candidates))):
        asked = str(candidate.proof["heading"])
        others = [title for title in titles if title not in (asked, candidate.answer)]
        others.sort(key=lambda title: (abs(len(title.split()) - len(candidate.answer.split())), title))
        wrong = text_options(candidate.answer, others[:12], chance)
        if wrong is None:
            continue
        made.append((candidate, wrong))
    return made
