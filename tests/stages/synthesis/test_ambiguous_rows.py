"""Rows of a filing that share a name: those that a section tells apart are named by it, the others not asked about."""

from __future__ import annotations

from fact_corpus import document, write_documents

from stages.common.shards import SerialExecutor
from stages.synthesis.numerical_corpus import read_figures

HEADER = "| (in millions) | 2024 | 2023 |\n| --- | --- | --- |\n"
TAXES = f"{HEADER}| Current: | | |\n| Foreign | 699 | 502 |\n| Deferred: | | |\n| Foreign | 280 | 216 |\n"
INCOME = f"{HEADER}| Foreign | 6,570 | 4,323 |\n| Domestic | 9,100 | 8,200 |\n"


def named(tmp_path, *tables):
    body = "\n".join(f"## Note {number}\n\nAs follows:\n\n{table}" for number, table in enumerate(tables, start=1))
    folder = write_documents(tmp_path / "documents", [document("Acme 10-K 2024", body)])
    found = read_figures(folder, SerialExecutor())
    return {figure.attribute for figure in found.figures}, {record.reason for record in found.dropped}


def test_a_bare_name_that_sections_of_another_table_bear_is_not_asked_about(tmp_path):
    assert named(tmp_path / "a", INCOME) == ({"Foreign", "Domestic"}, set())
    attributes, reasons = named(tmp_path / "b", INCOME, TAXES)
    assert attributes == {"Current: Foreign", "Deferred: Foreign", "Domestic"}
    assert {"ambiguous_cell", "ambiguous_year"} == reasons


def test_two_rows_of_a_table_without_a_section_make_their_name_unclear_in_all_tables(tmp_path):
    twice = f"{HEADER}| Net assets | 912 | 811 |\n| Costs | 7 | 6 |\n| Net assets | 400 | 300 |\n"
    once = f"{HEADER}| Net assets | 400 | 300 |\n| Sales | 50 | 40 |\n"
    assert named(tmp_path / "a", once)[0] == {"Net assets", "Sales"}
    attributes, reasons = named(tmp_path / "b", twice, once)
    assert attributes == {"Costs", "Sales"}
    assert reasons == {"ambiguous_cell"}


def test_two_rows_that_say_the_same_are_one(tmp_path):
    twice = f"{HEADER}| Net income | 912 | 811 |\n| Costs | 7 | 6 |\n| Net income | 912 | 811 |\n"
    once = f"{HEADER}| Net income | 912 | 811 |\n| Sales | 50 | 40 |\n"
    assert named(tmp_path, twice, once)[0] == {"Net income", "Costs", "Sales"}
