"""Predictions of an evaluation as a table on MLflow's page: bounded in rows and in the length of a cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_ROWS = 1000
MAX_CHARACTERS = 1000
COLUMNS = (
    "benchmark", "mode", "task_type", "sample_id", "sample", "question", "gold", "prediction", "score", "judge",
    "failure", "context_tokens", "prompt_tokens", "response_tokens",
)  # fmt: skip


def prediction_table(path: Path) -> dict[str, list[Any]] | None:
    """Columns of the first rows of a predictions.jsonl; None if there is no such file or it has no rows.

    Every benchmark and mode gets its share of the rows, so that a long one does not crowd out the others. Texts are cut.
    """
    if not path.is_file():
        return None
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            group = groups.setdefault((str(row.get("benchmark")), str(row.get("mode"))), [])
            if len(group) < MAX_ROWS:
                group.append({column: _cell(row.get(column)) for column in COLUMNS})
    if not groups:
        return None
    share = max(1, MAX_ROWS // len(groups))
    rows = [row for group in groups.values() for row in group[:share]]
    return {column: [row[column] for row in rows] for column in COLUMNS}


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        return value[: MAX_CHARACTERS - 1] + "…"
    return value
