"""Corpus-level numerical questions (stage synthesize@numerical, paper section 3.2).

    documents -> figures -> corpus table (DuckDB) -> query families: a sentence and an SQL query
              -> the executed query's result is the answer -> re-derived from the evidence alone

Two computations must agree: the query over the table of the whole corpus, rounded here, and the whole statement executed
again on rows that are read anew from the evidence (numerical_proofs.py). A result that lies on the edge of its rounding is
dropped. Departs from the paper: queries come from a grammar over typed figures, so each is executable and none ambiguous;
where `endpoints.writer` is set, a language model adds its own (numerical_written.py), held to the same checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import duckdb

from stages.common.chat_access import open_chat
from stages.common.errors import ConfigError, InputError
from stages.common.metrics import Emit
from stages.common.records import AnswerKind, Category, Dropped, QAPair, TaskType
from stages.common.seeds import rng
from stages.common.shards import ProcessExecutor, ShardExecutor
from stages.common.storage import DocumentStore
from stages.synthesis.config import NumericalConfig, NumericalStage
from stages.synthesis.corpus_table import open_table, select_value
from stages.synthesis.near_duplicates import near_duplicates
from stages.synthesis.numerical_corpus import FigureCorpus, read_figures
from stages.synthesis.numerical_draft import Draft
from stages.synthesis.numerical_families import CHEAP_FAMILIES, FAMILIES
from stages.synthesis.numerical_pools import Pools, build_pools
from stages.synthesis.numerical_proofs import evidence_spans, figure_row
from stages.synthesis.numerical_rounding import round_clearly
from stages.synthesis.numerical_written import add_written
from stages.synthesis.pairs import make_pair, quote_span
from stages.synthesis.quantities import plain
from stages.synthesis.rewrite import rewrite_selection
from stages.synthesis.selection import Selection, write_selection

TRIES_PER_QUESTION = 12  # drafts of a family that may fail per question wanted
REFILLS = 4  # rounds in which near-duplicates are replaced


def run(
    config: NumericalStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make numerical questions. NotEnoughDataError if the documents yield too few."""
    del emit
    return make(config, inputs["documents"], out_dir, state_dir, ProcessExecutor())


def make(
    config: NumericalStage, documents: Path, out_dir: Path, state_dir: Path, executor: ShardExecutor
) -> dict[str, int]:
    """`run` on a given executor; the bytes do not depend on it."""
    corpus = read_figures(documents, executor, state_dir)
    store = document_store(documents)
    pools = build_pools(corpus.figures, config.generator.max_entities)
    selection = make_questions(corpus, pools, store, config.generator, config.seed)
    chat = open_chat(config.writer, state_dir)  # one for the stage: rewriting and writing share its budget
    selection = rewrite_selection(selection, chat, out_dir)
    add_written(selection, pools, store, chat, config.generator.written, config.seed)
    return write_selection(selection, TaskType.NUMERICAL, config.generator, corpus.documents, out_dir)


def document_store(folder: Path) -> DocumentStore:
    """The documents that figures come from."""
    paths = [folder / f"{category}.jsonl" for category in Category if category is not Category.DIALOGUES]
    return DocumentStore([path for path in paths if path.is_file()])


def make_questions(
    corpus: FigureCorpus, pools: Pools, store: DocumentStore, config: NumericalConfig, seed: int
) -> Selection:
    """Up to `config.questions` questions, families by weight; what one lacks is made up by the others."""
    selection = Selection(dropped=list(corpus.dropped))
    connection = open_table([figure_row(figure) for figure in corpus.figures])
    try:
        weights = family_weights(config.families)
        streams = {
            name: answered(FAMILIES[name](pools, rng(seed, "numerical", name)), connection, store, seed, selection)
            for name in weights
        }
        fill_evenly(selection, streams, weights, config.questions)
    finally:
        connection.close()
    rng(seed, "numerical", "order").shuffle(selection.questions)
    return selection


def family_weights(families: Mapping[str, float]) -> dict[str, float]:
    """Weight per family. ConfigError names one that there is not, or that nothing is left."""
    unknown = sorted(set(families) - set(FAMILIES) - {"computed"})
    if unknown:
        raise ConfigError(
            f"synthesize.numerical.families names {unknown[0]!r}, which is no query family. "
            f"There are: computed, {', '.join(FAMILIES)}."
        )
    if any(weight < 0 for weight in families.values()) or not sum(families.values()):
        raise ConfigError("synthesize.numerical.families needs weights of 0 or more, one of them above 0.")
    computed = [name for name in FAMILIES if name not in CHEAP_FAMILIES and name not in families]
    shares = {name: weight for name, weight in families.items() if name != "computed"}
    shares |= {name: families.get("computed", 0) / len(computed) for name in computed} if computed else {}
    return {name: shares[name] for name in FAMILIES if shares.get(name, 0) > 0}


def fill_evenly(
    selection: Selection, streams: Mapping[str, Iterator[QAPair]], weights: Mapping[str, float], wanted: int
) -> None:
    """Take questions by weight until `wanted` are there; near-duplicates are dropped and replaced.

    The next comes from the stream that is furthest behind its share; one that has run dry leaves its share to the rest.
    """
    taken: Counter[str] = Counter()
    for _ in range(REFILLS):
        _fill(selection, streams, weights, wanted, taken)
        if not _without_near_duplicates(selection):
            return


def _fill(
    selection: Selection,
    streams: Mapping[str, Iterator[QAPair]],
    weights: Mapping[str, float],
    wanted: int,
    taken: Counter[str],
) -> None:
    waiting = dict(streams)
    while waiting and len(selection.questions) < wanted:
        name = min(waiting, key=lambda family: ((taken[family] + 1) / weights[family], family))
        candidate = next(waiting[name], None)
        if candidate is None:
            del waiting[name]
        elif selection.offer(candidate):
            taken[name] += 1


def _without_near_duplicates(selection: Selection) -> int:
    """Drop questions that ask nearly the same as an earlier one; how many."""
    repeats = near_duplicates(selection.questions)
    for qa in selection.questions:
        if qa.id in repeats:
            detail = f"nearly the same question as {repeats[qa.id]}: {qa.question}"[:300]
            record = qa.model_dump(mode="json")
            selection.dropped.append(Dropped(reason="near_duplicate", stage="synthesize", detail=detail, record=record))
    selection.questions = [qa for qa in selection.questions if qa.id not in repeats]
    return len(repeats)


def answered(
    drafts: Iterator[Draft],
    connection: duckdb.DuckDBPyConnection,
    store: DocumentStore,
    seed: int,
    selection: Selection,
) -> Iterator[QAPair]:
    """Each draft with its answer; what has none is dropped. Ends when too many in a row come to nothing."""
    asked: set[tuple[str, ...]] = set()
    failed = 0
    for draft in drafts:
        if failed > 50 * TRIES_PER_QUESTION:
            return
        key = tuple(sorted(f"{figure.document_id}:{figure.start}" for figure in draft.figures))
        if key in asked:
            selection.not_kept["same_figures"] += 1
            failed += 1
            continue
        answer = computed_answer(draft, connection)
        if answer is None:
            failed += 1
            selection.dropped.append(_dropped("no_clear_answer", draft))
            continue
        asked.add(key)
        failed = 0
        yield make_pair(
            task_type=TaskType.NUMERICAL,
            question=draft.question,
            answer=answer,
            answer_kind=AnswerKind.NUMBER if _is_number(answer) else AnswerKind.TEXT,
            evidence=[quote_span(store, span) for span in evidence_spans(draft.figures)],
            proof={"kind": "sql", "sql": draft.sql, "rows": _rows(draft)},
            generator=f"numerical/{draft.family}",
            seed=seed,
        )


def _rows(draft: Draft) -> list[dict[str, object]]:
    """The figures that the query reads, each once."""
    return [figure_row(figure) for figure in dict.fromkeys(draft.figures)]


def computed_answer(draft: Draft, connection: duckdb.DuckDBPyConnection) -> str | None:
    """What the query gives on the whole corpus, in the asked unit and rounding; None on the edge of rounding."""
    try:
        value = select_value(connection, f"SELECT {draft.expression}")
    except InputError:
        return None  # a division by zero, or a name that stands for several figures
    if value is None or isinstance(value, str):
        return value
    if draft.decimals is None:
        return plain(value)
    return round_clearly(value / draft.factor, draft.decimals, exact=not draft.rounded)


def _dropped(reason: str, draft: Draft) -> Dropped:
    record = {"family": draft.family, "sql": draft.sql[:2000]}
    return Dropped(reason=reason, stage="synthesize", detail=draft.question[:300], record=record)


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except ArithmeticError:
        return False
