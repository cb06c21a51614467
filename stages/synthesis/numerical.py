"""Corpus-level numerical questions (stage synthesize@numerical, paper section 3.2).

All facts go into one table; a question is a sentence and an SQL query; the executed query's result is the answer:

- lookup: one value under a heading of one document ("What is the coastline of Chile, in km?");
- table_cell: one cell of a table, named by row and column;
- computed families, see `numerical_families.py`: sum, difference, ratio, largest, which_largest, count, change.

Departs from the paper: queries come from templates over typed facts, not from an LLM, so each is executable and none is
ambiguous. Look-ups are the bulk, since they are what a small model can learn within minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import duckdb

from stages.common.metrics import Emit
from stages.common.records import AnswerKind, QAPair, TaskType
from stages.common.seeds import rng
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.corpus import Corpus, read_corpus
from stages.synthesis.corpus_table import literal, open_table, select_text
from stages.synthesis.facts import Fact
from stages.synthesis.numerical_families import FAMILIES, Draft
from stages.synthesis.pairs import make_pair
from stages.synthesis.phrasing import in_unit, scale_note, table_cell, what_is
from stages.synthesis.proofs import fact_row, joint_evidence
from stages.synthesis.selection import Selection, fill, in_turn, spread_facts, write_selection

# Shares of the questions; what a family lacks is filled up with look-ups.
LOOKUP_SHARE = 0.8
TABLE_SHARE = 0.05


def run(
    config: SynthesizeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make numerical questions. NotEnoughDataError if the documents yield too few."""
    del state_dir, emit
    corpus = read_corpus(inputs["documents"])
    selection = make_questions(corpus, config.generator.questions, config.seed)
    return write_selection(selection, TaskType.NUMERICAL, config.generator, corpus.documents, out_dir)


def make_questions(corpus: Corpus, questions: int, seed: int) -> Selection:
    """Up to `questions` questions, spread over documents, attributes and families."""
    numeric = [fact for fact in corpus.facts if fact.quantity is not None]
    selection = Selection(dropped=list(corpus.dropped))
    connection = open_table([fact_row(fact) for fact in numeric])
    try:
        headed = [fact for fact in numeric if fact.source == "heading"]
        cells = [fact for fact in numeric if fact.source == "table"]
        lookups = _executed(_lookups(spread_facts(headed, rng(seed, "lookup"))), connection, seed)
        tables = _executed(_table_cells(spread_facts(cells, rng(seed, "table_cell"))), connection, seed)
        computed = in_turn(
            [_executed(family(numeric, rng(seed, name)), connection, seed) for name, family in FAMILIES.items()]
        )
        fill(selection, lookups, round(questions * LOOKUP_SHARE))
        fill(selection, tables, round(questions * (LOOKUP_SHARE + TABLE_SHARE)))
        fill(selection, computed, questions)
        fill(selection, in_turn([lookups, tables]), questions)
    finally:
        connection.close()
    rng(seed, "numerical", "order").shuffle(selection.questions)
    return selection


def _lookups(facts: list[Fact]) -> Iterator[Draft]:
    for fact in facts:
        assert fact.quantity is not None
        yield Draft("lookup", f"{what_is(fact)}{in_unit(fact.quantity.unit)}?", cell_sql(fact), (fact,))


def _table_cells(facts: list[Fact]) -> Iterator[Draft]:
    for fact in facts:
        assert fact.quantity is not None
        note = table_note(fact)
        yield Draft(
            "table_cell", f"{fact.entity}: which number stands in {table_cell(fact)}{note}?", cell_sql(fact), (fact,)
        )


def table_note(fact: Fact) -> str:
    """How a cell's number is to be read: as printed, its scale, its sign."""
    assert fact.quantity is not None
    if fact.quantity.unit.startswith("%"):
        return ", in percent"
    sign = " (brackets mean a negative number)" if fact.text.lstrip("$").startswith("(") else ""
    return f", as printed{scale_note(fact)}{sign}"


def cell_sql(fact: Fact) -> str:
    """The query of a single value."""
    return (
        f"SELECT value FROM facts WHERE entity = {literal(fact.entity)} "
        f"AND attribute = {literal(fact.attribute)} AND period = {literal(fact.period)}"
    )


def _executed(drafts: Iterator[Draft], connection: duckdb.DuckDBPyConnection, seed: int) -> Iterator[QAPair]:
    """Each draft with its answer: what its SQL gives on the table of the whole corpus."""
    for draft in drafts:
        answer = select_text(connection, draft.sql)
        if answer is None:
            continue
        yield make_pair(
            task_type=TaskType.NUMERICAL,
            question=draft.question,
            answer=answer,
            answer_kind=AnswerKind.NUMBER if _is_number(answer) else AnswerKind.TEXT,
            evidence=joint_evidence(draft.facts),
            proof={"kind": "sql", "sql": draft.sql, "rows": [fact_row(fact) for fact in draft.facts]},
            generator=f"numerical/{draft.family}",
            seed=seed,
        )


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except ArithmeticError:
        return False
