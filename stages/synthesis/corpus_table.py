"""The corpus table: all facts of all documents in DuckDB, where a question's SQL is executed (paper section 3.2).

The connection is in memory, reads no file, cannot be reconfigured, runs on one thread (a fixed order) and is
interrupted after a few seconds. Only a single SELECT is executed. DECIMAL keeps sums and differences exact.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb

from stages.common.errors import InputError
from stages.synthesis.quantities import plain

COLUMNS = ("document_id", "entity", "attribute", "period", "value", "unit")
MAX_SQL_CHARACTERS = 4000
MAX_RESULT_ROWS = 100
LIMIT_SECONDS = 10.0

_LOOPS = re.compile(r"\b(?:recursive|range|generate_series|pragma|attach|copy|install|load)\b", re.IGNORECASE)


def open_table(rows: Sequence[Mapping[str, str]]) -> duckdb.DuckDBPyConnection:
    """A connection with one table `facts(document_id, entity, attribute, period, value DECIMAL(38,8), unit)`."""
    connection = duckdb.connect(
        ":memory:", config={"enable_external_access": "false", "threads": "1", "memory_limit": "1GB"}
    )
    connection.execute(
        "CREATE TABLE facts (document_id VARCHAR, entity VARCHAR, attribute VARCHAR, period VARCHAR,"
        " value DECIMAL(38,8), unit VARCHAR)"
    )
    _insert(connection, rows)
    connection.execute("SET lock_configuration = true")
    return connection


def _insert(connection: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, str]]) -> None:
    if not rows:
        return
    columns = [[row[name] for row in rows] for name in COLUMNS]
    marks = ", ".join(
        "CAST(unnest(?::VARCHAR[]) AS DECIMAL(38,8))" if name == "value" else "unnest(?::VARCHAR[])" for name in COLUMNS
    )
    connection.execute(f"INSERT INTO facts SELECT {marks}", columns)


@functools.cache
def _small_table() -> tuple[duckdb.DuckDBPyConnection, threading.Lock]:
    """One connection for `select_from`, made at first use: opening one takes longer than all of a question's work."""
    return open_table([]), threading.Lock()


def select_from(rows: Sequence[Mapping[str, str]], sql: str) -> str | None:
    """`select_text` on a table of these rows alone. InputError as `run_select`, or if a row does not fit the table."""
    connection, lock = _small_table()
    with lock:
        try:
            connection.execute("DELETE FROM facts")
            _insert(connection, rows)
        except duckdb.Error as error:
            raise InputError(f"rows of a proof do not fit the table: {error}") from None
        return select_text(connection, sql)


def run_select(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """Execute one SELECT. InputError if it is anything else, too long, wrong, or not done in time."""
    if len(sql) > MAX_SQL_CHARACTERS or _LOOPS.search(_without_strings(sql)):
        raise InputError(f"refused SQL: longer than {MAX_SQL_CHARACTERS} characters or with a forbidden word: {sql!r}")
    timer = threading.Timer(LIMIT_SECONDS, connection.interrupt)
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InputError(f"refused SQL: only one SELECT is executed, this is another statement: {sql!r}")
        timer.start()
        return connection.execute(statements[0]).fetchmany(MAX_RESULT_ROWS)
    except duckdb.Error as error:
        raise InputError(f"the SQL of a question failed ({error}): {sql!r}") from None
    finally:
        timer.cancel()


def select_text(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """The single cell of a SELECT as answer text; None if there is not exactly one non-null cell."""
    rows = run_select(connection, sql)
    if len(rows) != 1 or len(rows[0]) != 1 or rows[0][0] is None:
        return None
    value = rows[0][0]
    if isinstance(value, float):
        return plain(Decimal(repr(value)))
    return plain(value) if isinstance(value, Decimal) else str(value)


def literal(text: str) -> str:
    """An SQL string literal. DuckDB knows no escape but the doubled quote."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"


def _without_strings(sql: str) -> str:
    return re.sub(r"'[^']*'", "''", sql)
