from __future__ import annotations

import pytest

from stages.common.errors import InputError
from stages.synthesis.corpus_table import literal, open_table, run_select, select_from, select_text


def row(entity, value, attribute="coastline"):
    return {
        "document_id": entity,
        "entity": entity,
        "attribute": attribute,
        "period": "",
        "value": value,
        "unit": "km",
    }


ROWS = [row("Chile", "0.1"), row("Peru", "0.2"), row("Mali'; DROP TABLE facts; --", "7")]


@pytest.fixture
def table():
    connection = open_table(ROWS)
    yield connection
    connection.close()


def test_sums_are_exact_decimals(table):
    assert select_text(table, "SELECT SUM(value) FROM facts WHERE value < 1") == "0.3"


def test_a_quote_in_a_name_is_only_a_name(table):
    sql = f"SELECT value FROM facts WHERE entity = {literal(ROWS[2]['entity'])}"
    assert select_text(table, sql) == "7"
    assert select_text(table, "SELECT COUNT(*) FROM facts") == "3"


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE facts",
        "INSERT INTO facts SELECT * FROM facts",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t (a INT)",
        "SET enable_external_access = true",
        "COPY facts TO 'out.csv'",
        "ATTACH 'other.db'",
        "PRAGMA database_list",
        "SELECT * FROM read_csv('data/starter_corpus/SOURCES.md')",
        "SELECT * FROM 'data/starter_corpus/SOURCES.md'",
        "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT * FROM t",
        "SELECT COUNT(*) FROM range(1000000000000)",
        "SELECT no_such_column FROM facts",
        "not sql",
        "",
    ],
)
def test_anything_but_one_select_on_the_facts_is_refused(table, sql):
    with pytest.raises(InputError):
        run_select(table, sql)
    assert select_text(table, "SELECT COUNT(*) FROM facts") == "3"


def test_every_cell_knows_its_document_and_its_span():
    rows = [row("Chile", "6435") | {"start": 40, "end": 48}, row("Peru", "2414")]
    connection = open_table(rows)
    sql = "SELECT document_id, span_start, span_end FROM facts ORDER BY entity"
    assert run_select(connection, sql) == [("Chile", 40, 48), ("Peru", None, None)]
    connection.close()
    assert select_from(rows, "SELECT span_end - span_start FROM facts WHERE entity = 'Chile'") == "8"


def test_no_or_several_cells_are_no_answer(table):
    assert select_text(table, "SELECT value FROM facts") is None
    assert select_text(table, "SELECT value FROM facts WHERE entity = 'Norway'") is None
    assert select_text(table, "SELECT MAX(value) FROM facts WHERE entity = 'Norway'") is None


def test_rows_of_one_call_are_gone_in_the_next():
    assert select_from(ROWS, "SELECT COUNT(*) FROM facts") == "3"
    assert select_from(ROWS[:1], "SELECT COUNT(*) FROM facts") == "1"


def test_a_value_that_is_no_number_is_an_input_error():
    with pytest.raises(InputError, match="does not fit"):
        select_from([row("Chile", "long")], "SELECT value FROM facts")
    assert select_from(ROWS[:1], "SELECT value FROM facts") == "0.1"
