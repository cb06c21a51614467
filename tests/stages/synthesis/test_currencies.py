"""Amounts of two currencies are never joined in a question, whether marked in cells, in a header or in a caption."""

from __future__ import annotations

import pytest
from fact_corpus import document, store_of, write_documents

from stages.common.shards import SerialExecutor
from stages.synthesis.corpus_table import open_table, run_select
from stages.synthesis.numerical_corpus import read_figures
from stages.synthesis.numerical_pools import build_pools
from stages.synthesis.numerical_proofs import figure_row

ROWS = (("Net sales", 900, 800), ("Gross profit", 300, 250), ("Operating expenses", 120, 110), ("Net income", 60, 50))


def report(name: str, header: str, mark: str) -> str:
    rows = "\n".join(f"| {label} | {mark}{first} | {mark}{second} |" for label, first, second in ROWS)
    return f"## Results\n\n{header}\n\n| (in millions) | 2023 | 2022 |\n| --- | --- | --- |\n{rows}\n"


def figures_of(tmp_path, *texts):
    names = ("Acme", "Borg", "Cyan", "Dyne")
    documents = [document(f"{name} 10-K 2023", text) for name, text in zip(names, texts, strict=False)]
    folder = write_documents(tmp_path / "documents", documents)
    return read_figures(folder, SerialExecutor()).figures, folder


def joined(figures):
    """The sets of currencies that some group of figures holds, unmarked ones apart."""
    pools = build_pools(figures, 6)
    groups = [*pools.panels, *pools.series, *pools.columns]
    assert groups
    return {frozenset(figure.currency for figure in group) - {""} for group in groups}


@pytest.mark.parametrize(
    ("first", "second"), [("$", "€"), ("USD ", "EUR "), ("US$", "A$"), ("$", "C$"), ("¥", "CN¥"), ("$", "R$")]
)
def test_tables_in_two_currencies_share_no_group(tmp_path, first, second):
    figures, _ = figures_of(tmp_path, report("a", "", first), report("b", "", second))
    assert all(len(currencies) <= 1 for currencies in joined(figures))


def test_sign_and_code_of_one_currency_are_compared(tmp_path):
    figures, _ = figures_of(tmp_path, report("a", "", "$"), report("b", "", "USD "), report("c", "", "US$"))
    panels = build_pools(figures, 6).panels
    assert panels
    assert {len({figure.entity for figure in panel}) for panel in panels} == {3}


def test_a_currency_that_only_the_caption_names_keeps_tables_apart(tmp_path):
    texts = (report("a", "All amounts in EUR.", ""), report("b", "All amounts in USD.", ""))
    figures, _ = figures_of(tmp_path, *texts)
    assert {figure.currency for figure in figures} == {"euros", "dollars"}
    assert all(len(currencies) <= 1 for currencies in joined(figures))


def test_a_column_that_mixes_currencies_is_not_added_up(tmp_path):
    mixed = report("a", "", "$").replace("$300", "€300").replace("$250", "€250")
    figures, _ = figures_of(tmp_path, mixed, report("b", "", "$"))
    own = [figure for figure in figures if figure.entity.startswith("Acme")]
    assert {figure.currency for figure in own} == {"dollars", "euros"}
    assert all(len(currencies) <= 1 for currencies in joined(figures))


def test_the_corpus_table_says_where_each_figure_stands(tmp_path):
    figures, folder = figures_of(tmp_path, report("a", "", "$"), report("b", "", "EUR "))
    documents = store_of(folder)
    connection = open_table([figure_row(figure) for figure in figures])
    rows = run_select(connection, "SELECT document_id, span_start, span_end, value FROM facts")
    connection.close()
    assert len(rows) == 16
    for document_id, start, end, value in rows:
        shown = documents[document_id].text[start:end]
        assert int("".join(filter(str.isdigit, shown))) * 10**6 == value
