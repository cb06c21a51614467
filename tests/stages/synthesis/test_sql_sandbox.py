"""Untrusted SQL: what a question needs works, everything else is refused within its limits."""

from __future__ import annotations

import threading
import time
from decimal import Decimal

import pytest

from stages.common.errors import InputError
from stages.synthesis.sql_sandbox import RefusedSqlError, SqlLimits, SqlTable, execute_untrusted

TABLES = {
    "facts": SqlTable(
        {"entity": "VARCHAR", "year": "INTEGER", "value": "DECIMAL(38,8)"},
        [("Chile", 2020, "1.5"), ("Peru", 2021, "2.5"), ("Mali", None, "7")],
    )
}
QUICK = SqlLimits(seconds=0.4, memory_mb=64)


def run(sql, limits=QUICK):
    return execute_untrusted(sql, TABLES, limits)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT SUM(value) FROM facts", [(Decimal(11),)]),
        ("SELECT entity FROM facts ORDER BY value DESC LIMIT 1 OFFSET 1", [("Peru",)]),
        ("WITH big AS (SELECT * FROM facts WHERE value > 2) SELECT COUNT(*) FROM big", [(2,)]),
        ("SELECT a.entity FROM facts a JOIN facts b USING (year) WHERE a.value < 2", [("Chile",)]),
        ("SELECT CAST(MEDIAN(value) AS DOUBLE) FROM facts", [(2.5,)]),
        ("SELECT SUM(CASE WHEN value BETWEEN 2 AND 8 THEN 1 ELSE 0 END) FROM facts", [(2,)]),
        ("SELECT value - LAG(value) OVER (ORDER BY value) FROM facts ORDER BY 1 LIMIT 1", [(Decimal(1),)]),
        ("SELECT POWER(4, 0.5), 7 / 2, 7 // 2, NULLIF(1, 1)", [(2.0, 3.5, 3, None)]),
        ("SELECT (SELECT value FROM facts WHERE entity = 'Mali') / 2", [(3.5,)]),
    ],
)
def test_what_a_question_needs_works(sql, rows):
    assert run(sql).rows == rows


@pytest.mark.parametrize(
    "sql",
    [
        "COPY facts TO 'out.csv'",
        "COPY (SELECT 1) TO '/dev/stdout'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "CREATE TABLE t AS SELECT 1",
        "CREATE MACRO f(x) AS x",
        "DROP TABLE facts",
        "DELETE FROM facts",
        "UPDATE facts SET value = 0",
        "EXPLAIN SELECT 1",
        "DESCRIBE facts",
        "SHOW TABLES",
        "SUMMARIZE facts",
        "CALL pragma_version()",
        "EXPORT DATABASE 'x'",
        "BEGIN; SELECT 1; COMMIT",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('*')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'https://example.org/x.parquet'",
        "SELECT * FROM glob('*')",
        "SELECT * FROM sniff_csv('x')",
        "SELECT getenv('HOME')",
        "SELECT current_setting('threads')",
        "SELECT version()",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM main.facts",
        "SELECT * FROM range(1000000000000)",
        "SELECT * FROM generate_series(1, 1000000000000)",
        "SELECT unnest([1, 2])",
        "SELECT repeat('x', 1000000000)",
        "SELECT lpad('x', 1000000000, 'y')",
        "SELECT 'a' || 'b'",
        "SELECT list_transform([1], x -> x)",
        "SELECT query('SELECT 1')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('facts')",
        "SELECT nextval('s')",
        "SELECT random()",
        "SELECT now()",
        "SELECT ?",
        "SELECT $name",
        "SELECT value::JSON FROM facts",
        "SELECT * FROM facts USING SAMPLE 1",
        "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT * FROM t",
        "PIVOT facts ON entity USING SUM(value)",
        "SELECT no_such_column FROM facts",
        "SELECT " + "(" * 1500 + "1" + ")" * 1500,
        "SELECT " + "+".join(["1"] * 1400),
        "SELECT '" + "x" * 5000 + "'",
        "not sql",
        "",
        "\0",
        "SELECT '\ud800'",
    ],
)
def test_everything_else_is_refused(sql):
    with pytest.raises(RefusedSqlError):
        run(sql)


def test_a_cross_join_without_end_is_stopped_in_time():
    start = time.monotonic()
    with pytest.raises(RefusedSqlError, match=r"stopped after 0\.4 s"):
        run("SELECT COUNT(*) FROM " + ", ".join(f"facts AS f{i}" for i in range(20)), SqlLimits(seconds=0.4))
    assert time.monotonic() - start < 30


def test_memory_is_bounded():
    sql = "SELECT COUNT(*) FROM (SELECT DISTINCT " + ", ".join(f"f{i}.value AS v{i}" for i in range(16))
    sql += " FROM " + ", ".join(f"facts AS f{i}" for i in range(16)) + ") AS t"
    with pytest.raises(RefusedSqlError, match=r"failed|stopped"):
        run(sql, SqlLimits(seconds=20, memory_mb=32))


def test_result_rows_and_cells_are_bounded():
    joined = "SELECT 1 FROM facts a, facts b, facts c, facts d, facts e"
    assert len(run(joined, SqlLimits(rows=7)).rows) == 7
    with pytest.raises(RefusedSqlError, match="more than 3 characters"):
        run("SELECT entity FROM facts", SqlLimits(cell_characters=3))


def test_a_refusal_is_an_input_error_that_says_why():
    with pytest.raises(InputError, match=r"the function getenv"):
        run("SELECT getenv('PATH')")


def test_a_quote_in_a_table_or_column_name_is_only_a_name():
    table = SqlTable({'a"; DROP TABLE x; --': "VARCHAR"}, [("it's",)])
    assert execute_untrusted('SELECT * FROM "o""dd"', {'o"dd': table}, QUICK).rows == [("it's",)]


def test_a_value_that_does_not_fit_its_column_is_refused():
    with pytest.raises(RefusedSqlError, match="does not fit"):
        execute_untrusted("SELECT 1", {"t": SqlTable({"v": "INTEGER"}, [("many",)])}, QUICK)


def test_statements_of_several_threads_do_not_stop_each_other():
    found, stopped = [], []

    def quick():
        found.append([run("SELECT COUNT(*) FROM facts").rows for _ in range(20)])

    def slow():
        try:
            run("SELECT COUNT(*) FROM " + ", ".join(f"facts AS f{i}" for i in range(30)))
        except RefusedSqlError as error:
            stopped.append(str(error))

    threads = [threading.Thread(target=target) for target in (quick, slow, quick)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[[(3,)]] * 20] * 2
    assert len(stopped) == 1
