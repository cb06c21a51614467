"""Multiple choice on facts: the right value and three of other documents, of one attribute, type and magnitude.

Numbers: the options are other entities' values of the same attribute and unit, the nearest ones first. Names: other
entities' values of an attribute whose values mostly differ (capital, government type). Table cells: other rows of the
same column. The letters A to D are dealt evenly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from stages.common.metrics import Emit
from stages.common.records import AnswerKind, QAPair, TaskType
from stages.common.seeds import rng
from stages.common.text import collapse_blanks
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.corpus import Corpus, read_corpus
from stages.synthesis.facts import Fact
from stages.synthesis.naming import naming_facts
from stages.synthesis.pairs import make_pair
from stages.synthesis.phrasing import in_unit, table_cell, what_is, which_name
from stages.synthesis.proofs import LETTERS, fact_row
from stages.synthesis.selection import Selection, fill, in_turn, spread_facts, write_selection

NEAREST = 8  # options are drawn from that many nearest values


def run(
    config: SynthesizeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make letter questions. NotEnoughDataError if the documents yield too few."""
    del state_dir, emit
    corpus = read_corpus(inputs["documents"])
    selection = make_questions(corpus, config.generator.questions, config.seed)
    return write_selection(selection, TaskType.MULTIPLE_CHOICE, config.generator, corpus.documents, out_dir)


def make_questions(corpus: Corpus, questions: int, seed: int) -> Selection:
    """Up to `questions` questions: two of numbers to one of names to one of table cells while there are any."""
    selection = Selection(dropped=list(corpus.dropped))
    deal = _dealer(rng(seed, "letters"))
    headed = [fact for fact in corpus.facts if fact.source == "heading"]
    numbers = _numbers([fact for fact in headed if fact.quantity is not None], deal, seed)
    names = _names(naming_facts(headed), deal, seed)
    cells = _cells([fact for fact in corpus.facts if fact.source == "table"], deal, seed)
    fill(selection, in_turn([numbers, names, numbers, cells]), questions)
    return selection


def _dealer(chance: Random) -> Callable[[], int]:
    """Positions 0-3, each once in every four, in random order."""
    hand: list[int] = []

    def deal() -> int:
        if not hand:
            hand.extend(range(len(LETTERS)))
            chance.shuffle(hand)
        return hand.pop()

    return deal


def _numbers(facts: list[Fact], deal: Callable[[], int], seed: int) -> Iterator[QAPair]:
    groups: defaultdict[tuple[str, str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        assert fact.quantity is not None
        groups[(fact.attribute, fact.period, fact.quantity.unit)].append(fact)
    for fact in spread_facts(facts, rng(seed, "choice", "number")):
        assert fact.quantity is not None
        chance = rng(seed, "choice", fact.document_id, fact.start)
        wrong = _wrong(fact, groups[(fact.attribute, fact.period, fact.quantity.unit)], chance)
        if wrong:
            yield _question(f"{what_is(fact)}{in_unit(fact.quantity.unit)}?", fact, wrong, deal(), "number", seed)


def _names(facts: list[Fact], deal: Callable[[], int], seed: int) -> Iterator[QAPair]:
    groups: defaultdict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.key].append(fact)
    for fact in spread_facts(facts, rng(seed, "choice", "name")):
        wrong = _wrong(fact, groups[fact.key], rng(seed, "choice", fact.document_id, fact.start))
        if wrong:
            yield _question(f"{which_name(fact)}?", fact, wrong, deal(), "name", seed)


def _cells(facts: list[Fact], deal: Callable[[], int], seed: int) -> Iterator[QAPair]:
    groups: defaultdict[tuple[str, str, str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[_column(fact)].append(fact)
    for fact in spread_facts(facts, rng(seed, "choice", "cell")):
        wrong = _wrong(fact, groups[_column(fact)], rng(seed, "choice", fact.document_id, fact.start))
        if wrong:
            question = f"{fact.entity}: which number stands in {table_cell(fact)}?"
            yield _question(question, fact, wrong, deal(), "cell", seed)


def _column(fact: Fact) -> tuple[str, str, str, str]:
    """One column of one table, and how its numbers are written: "$" and "%" would give the answer away."""
    table = fact.group.split(":", 1)[0]
    form = "".join(character for character in fact.text if character in "$%(")
    return fact.document_id, table, fact.period, form


def _wrong(fact: Fact, group: Sequence[Fact], chance: Random) -> list[str]:
    """Three other options, or none if there are fewer than three different ones."""
    right = collapse_blanks(fact.text)
    others: dict[str, Fact] = {}
    values = {fact.quantity.value if fact.quantity else right.casefold()}
    for other in group:
        value = other.quantity.value if other.quantity else collapse_blanks(other.text).casefold()
        if value not in values:
            values.add(value)
            others[collapse_blanks(other.text)] = other
    texts = sorted(others)
    if fact.quantity is not None:
        texts = sorted(texts, key=lambda text: (_distance(fact, others[text]), text))[:NEAREST]
    return chance.sample(texts, 3) if len(texts) >= 3 else []


def _distance(fact: Fact, other: Fact) -> float:
    """How far apart two numbers are, as a share of the larger; the sign counts."""
    assert fact.quantity is not None
    assert other.quantity is not None
    a, b = fact.quantity.value, other.quantity.value
    return float(abs(a - b) / max(abs(a), abs(b))) if a or b else 0.0


def _question(question: str, fact: Fact, wrong: list[str], position: int, family: str, seed: int) -> QAPair:
    right = collapse_blanks(fact.text)
    return make_pair(
        task_type=TaskType.MULTIPLE_CHOICE,
        question=question,
        answer=LETTERS[position],
        answer_kind=AnswerKind.LETTER,
        choices=[*wrong[:position], right, *wrong[position:]],
        evidence=fact.evidence,
        proof={"kind": "option", "rows": [fact_row(fact)], "option": right},
        generator=f"multiple_choice/{family}",
        seed=seed,
    )
