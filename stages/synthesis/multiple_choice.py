"""Multiple choice (stage synthesize@multiple_choice): the other generators' questions with four options each.

    documents -> figures, named values, headings -> questions -> options of one type and magnitude -> re-derived

The right letter is uniform, and so is the right number's rank among the four. Departs from the paper, whose multiple-choice
questions are written by a model: here every answer follows from the evidence, and no option but one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.common.chat_access import open_chat
from stages.common.metrics import Emit
from stages.common.records import QAPair, TaskType
from stages.common.seeds import rng
from stages.common.shards import ProcessExecutor, ShardExecutor
from stages.common.storage import DocumentStore
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.corpus_table import open_table
from stages.synthesis.multiple_choice_options import Deal
from stages.synthesis.multiple_choice_sources import (
    YEARS,
    Maker,
    entity_questions,
    heading_questions,
    name_questions,
    number_questions,
    siblings_of,
)
from stages.synthesis.numerical import document_store, fill_evenly
from stages.synthesis.numerical_corpus import FigureCorpus, read_figures
from stages.synthesis.numerical_families import CHEAP_FAMILIES, FAMILIES
from stages.synthesis.numerical_pools import build_pools
from stages.synthesis.numerical_proofs import figure_row
from stages.synthesis.rewrite import rewrite_selection
from stages.synthesis.selection import Selection, in_turn, write_selection

# Shares of the sources; what one lacks is made up by the others.
SHARES = {"computed": 0.4, "figure": 0.2, "entity": 0.22, "name": 0.08, "heading": 0.1}
MAX_ENTITIES = 4  # of a computed question: it also has to be read with three other options


def run(
    config: SynthesizeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make letter questions. NotEnoughDataError if the documents yield too few."""
    del emit
    return make(config, inputs["documents"], out_dir, state_dir, ProcessExecutor())


def make(
    config: SynthesizeStage, documents: Path, out_dir: Path, state_dir: Path, executor: ShardExecutor
) -> dict[str, int]:
    """`run` on a given executor; the bytes do not depend on it."""
    corpus = read_figures(documents, executor, state_dir)
    selection = make_questions(corpus, document_store(documents), config.generator.questions, config.seed)
    selection = rewrite_selection(selection, open_chat(config.writer, state_dir), out_dir)
    return write_selection(selection, TaskType.MULTIPLE_CHOICE, config.generator, corpus.documents, out_dir)


def make_questions(corpus: FigureCorpus, store: DocumentStore, questions: int, seed: int) -> Selection:
    """Up to `questions` questions, sources by `SHARES`."""
    selection = Selection(dropped=list(corpus.dropped))
    pools = build_pools(corpus.figures, MAX_ENTITIES)
    siblings = siblings_of(corpus.figures)
    connection = open_table([figure_row(figure) for figure in corpus.figures])
    try:
        maker = Maker(store, connection, Deal(rng(seed, "ranks")), Deal(rng(seed, "letters")), seed)

        def numbers(name: str) -> Iterator[QAPair]:
            drafts = FAMILIES[name](pools, rng(seed, "multiple_choice", name))
            source = "figure" if name in CHEAP_FAMILIES else "computed"
            return number_questions(drafts, siblings, maker, source)

        streams = {
            "computed": in_turn([numbers(name) for name in FAMILIES if name not in (*CHEAP_FAMILIES, *YEARS)]),
            "figure": in_turn([numbers(name) for name in CHEAP_FAMILIES]),
            "entity": entity_questions(pools, maker),
            "name": name_questions(corpus.names, maker),
            "heading": heading_questions(store, maker),
        }
        fill_evenly(selection, streams, SHARES, questions)
    finally:
        connection.close()
    rng(seed, "multiple_choice", "order").shuffle(selection.questions)
    return selection
