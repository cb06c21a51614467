"""The corpus table: all figures of all documents in DuckDB, where a question's SQL is executed (paper section 3.2).

    facts(document_id, span_start INTEGER, span_end INTEGER, entity, attribute, period, year INTEGER, value DECIMAL(38,8), unit)

One row per figure, (entity, attribute, period) is unique; the figure is the characters [span_start, span_end) of its document. `value` is in the base unit (dollars, not billions of them), so
that documents that count in millions and in billions compare. DECIMAL keeps sums and differences exact. What may be
executed, and how it is kept in bounds: sql_sandbox.py.
"""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb

from stages.synthesis.quantities import plain
from stages.synthesis.sql_sandbox import SqlLimits, SqlTable, fill, lock, open_sandbox, select

COLUMNS = {
    "document_id": "VARCHAR",
    "span_start": "INTEGER",
    "span_end": "INTEGER",
    "entity": "VARCHAR",
    "attribute": "VARCHAR",
    "period": "VARCHAR",
    "year": "INTEGER",
    "value": "DECIMAL(38,8)",
    "unit": "VARCHAR",
}
# Columns that a proof's rows name otherwise: START and END are words of SQL.
_NAMES_IN_ROWS = {"span_start": "start", "span_end": "end"}
LIMITS = SqlLimits(seconds=10.0, memory_mb=1024)


def facts_table(rows: Sequence[Mapping[str, Any]]) -> SqlTable:
    """Rows of proofs as the table `facts`; a row without a year has none."""
    return SqlTable(COLUMNS, [[row.get(_NAMES_IN_ROWS.get(name, name)) for name in COLUMNS] for row in rows])


def open_table(rows: Sequence[Mapping[str, Any]]) -> duckdb.DuckDBPyConnection:
    """A locked connection with the table `facts` of these rows. InputError if a row does not fit."""
    connection = open_sandbox(LIMITS.memory_mb)
    connection.execute(f"CREATE TABLE facts ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
    fill(connection, "facts", facts_table(rows))
    lock(connection)
    return connection


@functools.cache
def _small_table() -> tuple[duckdb.DuckDBPyConnection, threading.Lock]:
    """One connection for `select_from`, made at first use: opening one takes longer than all of a question's work."""
    connection = open_table([])
    atexit.register(_forget_small_table)  # DuckDB complains on stderr of connections that outlive the interpreter
    return connection, threading.Lock()


def _forget_small_table() -> None:
    connection, _ = _small_table()
    connection.close()
    _small_table.cache_clear()


def select_from(rows: Sequence[Mapping[str, Any]], sql: str) -> str | None:
    """`select_text` on a table of these rows alone. InputError as `run_select`, or if a row does not fit the table."""
    connection, guard = _small_table()
    with guard:
        connection.execute("DELETE FROM facts")
        fill(connection, "facts", facts_table(rows))
        return select_text(connection, sql)


def run_select(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """Execute one SELECT on `facts`. InputError if it is anything else, too long, wrong, or not done in time."""
    return select(connection, sql, ["facts"], LIMITS).rows


def select_text(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """The single cell of a SELECT as answer text; None if there is not exactly one non-null cell."""
    value = select_value(connection, sql)
    if value is None:
        return None
    return plain(value) if isinstance(value, Decimal) else str(value)


def select_value(connection: duckdb.DuckDBPyConnection, sql: str) -> Decimal | str | None:
    """The single cell of a SELECT, numbers as decimals; None if there is not exactly one non-null finite cell."""
    rows = run_select(connection, sql)
    if len(rows) != 1 or len(rows[0]) != 1 or rows[0][0] is None:
        return None
    value = rows[0][0]
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | Decimal):
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        return number if number.is_finite() else None
    return str(value)


def literal(text: str) -> str:
    """An SQL string literal. DuckDB knows no escape but the doubled quote."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"
