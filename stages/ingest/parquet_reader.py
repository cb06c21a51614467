"""Parquet files: a column of texts or dialogues makes one document a row, anything else is one table.

Read batch by batch, so that a small file whose columns are encoded runs of long values stops at the limit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from stages.ingest.reasons import DropReason, UnusableError
from stages.ingest.tables import check_cells

_BATCH_ROWS = 256


def read_rows(data: bytes, max_bytes: int) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """(column names, rows). Raises UnusableError (bad_parquet), and (too_large) while rows are taken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = list(file.schema_arrow.names)
        if len(set(names)) != len(names):
            raise UnusableError(DropReason.BAD_PARQUET, "two columns have the same name")
        check_cells(file.metadata.num_rows * len(names))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnusableError(DropReason.BAD_PARQUET, str(error)[:300]) from None
    return names, _rows(file, max_bytes)


def _rows(file: Any, max_bytes: int) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    size = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            size += batch.nbytes
            if size > max_bytes:
                raise UnusableError(DropReason.TOO_LARGE, f"its rows hold more than {max_bytes / 1e6:g} MB")
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnusableError(DropReason.BAD_PARQUET, str(error)[:300]) from None


def cell_text(value: Any) -> str:
    """A value as a table cell: nothing for null, JSON for lists and structures."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.hex() if isinstance(value, bytes) else str(value)
