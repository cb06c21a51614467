"""Untrusted SQL: one SELECT over given tables, in memory, without files, network, settings or loops.

Two walls. The statement is parsed by DuckDB itself and its syntax tree walked: every node, function and table must be
on a list of what a question needs (a list of what is forbidden would always lack something). Then it runs on a
connection that has no access to anything outside of it, whose configuration is locked, and that is interrupted after a
few seconds; memory, result rows and cell sizes are bounded.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from stages.common.errors import InputError

_SETTINGS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
    "max_temp_directory_size": "0GB",
    "threads": "1",  # a fixed order of rows and sums
}

_FUNCTIONS = frozenset(
    [
        "+",
        "-",
        "*",
        "**",
        "/",
        "//",
        "%",
        "^",
        "nullif",
        "sum",
        "avg",
        "mean",
        "min",
        "max",
        "count",
        "count_star",
        "median",
        "round",
        "abs",
        "power",
        "pow",
        "sqrt",
        "floor",
        "ceil",
        "ceiling",
        "least",
        "greatest",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "var_pop",
        "var_samp",
        "quantile_cont",
        "quantile_disc",
        "mode",
        "arg_max",
        "arg_min",
        "max_by",
        "min_by",
        "lower",
        "upper",
        "trim",
        "length",
        "~~",
        "!~~",
        "~~*",
        "contains",
        "starts_with",
        "ends_with",
        "row_number",
        "rank",
        "dense_rank",
        "lag",
        "lead",
        "first_value",
        "last_value",
        "nth_value",
        "ntile",
        "cume_dist",
        "percent_rank",
        "ln",
        "exp",
    ]
)
_EXPRESSIONS = frozenset(
    [
        "BETWEEN",
        "CASE",
        "CAST",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "STAR",
        "SUBQUERY",
        "TYPE",
        "WINDOW",
    ]
)
_TYPES = frozenset(
    ["DECIMAL", "NUMERIC", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT", "REAL", "VARCHAR", "TEXT", "BOOLEAN"]
)
_NODES = frozenset(
    [
        "SELECT_NODE",
        "SET_OPERATION_NODE",
        "BASE_TABLE",
        "JOIN",
        "SUBQUERY",
        "EMPTY",
        "ORDER_MODIFIER",
        "LIMIT_MODIFIER",
        "DISTINCT_MODIFIER",
        "ORDER_DEFAULT",
        "ASCENDING",
        "DESCENDING",
    ]
)
_MAX_NODES = 2000


class RefusedSqlError(InputError):
    """SQL that is not one harmless SELECT, is wrong, or does not end within its limits."""


class _Watchdog:
    """Interrupts statements that run too long. One thread for all: a timer for each costs more than most statements.

    The thread starts with the first statement and ends when none has run for a while.
    """

    _LOOK_EVERY_SECONDS = 0.05
    _IDLE_LOOKS = 100

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[float, duckdb.DuckDBPyConnection]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def watch(self, connection: duckdb.DuckDBPyConnection, seconds: float) -> int:
        with self._lock:
            number = next(self._numbers)
            self._watched[number] = (time.monotonic() + seconds, connection)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, name="sql-watchdog", daemon=True)
                self._thread.start()
            return number

    def release(self, number: int) -> None:
        # Under the lock, so that no interrupt comes after this returns and hits the next statement.
        with self._lock:
            del self._watched[number]

    def _look(self) -> None:
        idle = 0
        while True:
            time.sleep(self._LOOK_EVERY_SECONDS)
            with self._lock:
                idle = 0 if self._watched else idle + 1
                if idle > self._IDLE_LOOKS:
                    self._thread = None
                    return
                self._interrupt_late()

    def _interrupt_late(self) -> None:
        # A function of its own, so that the sleeping thread holds no connection.
        now = time.monotonic()
        for deadline, connection in self._watched.values():
            if now > deadline:
                connection.interrupt()


_WATCHDOG = _Watchdog()


@dataclass(frozen=True)
class SqlLimits:
    """Bounds of one statement."""

    characters: int = 4000
    rows: int = 100
    cell_characters: int = 10_000
    seconds: float = 5.0
    memory_mb: int = 256


@dataclass(frozen=True)
class SqlTable:
    """A table for untrusted SQL: column name -> DuckDB type, and its rows in that order of columns."""

    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class SqlResult:
    """What a SELECT gave; `rows` holds at most `SqlLimits.rows` rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def execute_untrusted(sql: str, tables: Mapping[str, SqlTable], limits: SqlLimits) -> SqlResult:
    """Run one SELECT of unknown origin over `tables`. RefusedSqlError says what was wrong; nothing else happens."""
    connection = open_sandbox(limits.memory_mb)
    try:
        for name, table in tables.items():
            _create(connection, name, table)
        lock(connection)
        return select(connection, sql, tables.keys(), limits)
    finally:
        connection.close()


def open_sandbox(memory_mb: int) -> duckdb.DuckDBPyConnection:
    """An empty database in memory that reaches nothing outside; fill it, then `lock` it."""
    return duckdb.connect(":memory:", config={**_SETTINGS, "memory_limit": f"{memory_mb}MB"})


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on no setting can be changed."""
    connection.execute("SET lock_configuration = true")


def select(connection: duckdb.DuckDBPyConnection, sql: str, tables: Collection[str], limits: SqlLimits) -> SqlResult:
    """Check and run one SELECT on a locked connection. RefusedSqlError if it is anything else or breaks a limit."""
    statement = _statement(connection, sql, frozenset(tables), limits)
    watched = _WATCHDOG.watch(connection, limits.seconds)
    try:
        cursor = connection.execute(statement)
        columns = tuple(column[0] for column in cursor.description or ())
        rows = cursor.fetchmany(limits.rows)
    except duckdb.InterruptException:
        raise RefusedSqlError(f"stopped after {limits.seconds} s: {sql[:200]!r}") from None
    except (duckdb.Error, MemoryError) as error:
        raise RefusedSqlError(f"the SQL failed ({error}): {sql[:200]!r}") from None
    finally:
        _WATCHDOG.release(watched)
    if any(isinstance(cell, str | bytes) and len(cell) > limits.cell_characters for row in rows for cell in row):
        raise RefusedSqlError(f"a cell of the result has more than {limits.cell_characters} characters: {sql[:200]!r}")
    return SqlResult(columns, rows)


def _statement(
    connection: duckdb.DuckDBPyConnection, sql: str, tables: frozenset[str], limits: SqlLimits
) -> duckdb.Statement:
    if len(sql) > limits.characters:
        raise RefusedSqlError(f"refused SQL of {len(sql)} characters; {limits.characters} are allowed")
    try:
        sql.encode()  # DuckDB takes no lone surrogates
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise RefusedSqlError(f"only one SELECT is executed, this is something else: {sql[:200]!r}")
        found = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
        tree: dict[str, Any] = json.loads(found[0]) if found else {"error": True}
    except (duckdb.Error, RecursionError, UnicodeError, json.JSONDecodeError) as error:
        raise RefusedSqlError(f"the SQL cannot be parsed ({error}): {sql[:200]!r}") from None
    if tree.get("error") or len(tree["statements"]) != 1:
        raise RefusedSqlError(f"only one SELECT is executed, this is something else: {sql[:200]!r}")
    problem = _problem(tree["statements"][0]["node"], tables)
    if problem is not None:
        raise RefusedSqlError(f"refused SQL: {problem}: {sql[:200]!r}")
    return statements[0]


def _problem(tree: Any, tables: frozenset[str]) -> str | None:
    """What in a syntax tree is not allowed, or None."""
    nodes = list(_nodes(tree))
    if len(nodes) > _MAX_NODES:
        return f"more than {_MAX_NODES} parts"
    named = {entry["key"].lower() for node in nodes if "cte_map" in node for entry in node["cte_map"]["map"]}
    known = {table.lower() for table in tables} | named
    for node in nodes:
        kind = str(node.get("class") or node.get("type") or "")
        if "class" in node:
            if kind not in _EXPRESSIONS:
                return f"an expression of kind {kind}"
            if kind in ("FUNCTION", "WINDOW"):
                name = str(node.get("function_name", "")).lower()
                if name not in _FUNCTIONS or node.get("schema") or node.get("catalog"):
                    return f"the function {name}"
            if kind == "TYPE" and str(node.get("type_name", "")).upper() not in _TYPES:
                return f"the type {node.get('type_name')}"
        elif _is_node(node):
            if kind not in _NODES:
                return f"a part of kind {kind}"
            if node.get("sample"):
                return "a random sample"
            if kind == "BASE_TABLE":
                table = str(node["table_name"]).lower()
                if table not in known or node.get("schema_name") or node.get("catalog_name"):
                    return f"the table {table}"
    return None


def _is_node(node: Mapping[str, Any]) -> bool:
    """True for query nodes, table references and modifiers; constants and type names also have a `type` or `id`."""
    return isinstance(node.get("type"), str) and not {"is_null", "type_info"} & node.keys()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON tree, without recursion."""
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _create(connection: duckdb.DuckDBPyConnection, name: str, table: SqlTable) -> None:
    columns = ", ".join(f"{_identifier(column)} {kind}" for column, kind in table.columns.items())
    connection.execute(f"CREATE TABLE {_identifier(name)} ({columns})")
    fill(connection, name, table)


def fill(connection: duckdb.DuckDBPyConnection, name: str, table: SqlTable) -> None:
    """Insert a table's rows. RefusedSqlError if a value does not fit its column's type."""
    if not table.rows:
        return
    kinds = list(table.columns.values())
    columns = [[None if row[index] is None else str(row[index]) for row in table.rows] for index in range(len(kinds))]
    marks = ", ".join(f"CAST(unnest(?::VARCHAR[]) AS {kind})" for kind in kinds)
    try:
        connection.execute(f"INSERT INTO {_identifier(name)} SELECT {marks}", columns)
    except duckdb.Error as error:
        raise RefusedSqlError(f"a row does not fit the table {name}: {error}") from None


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
