"""What documents yield before the graph is built: triples, whom each document is about, phrases, drops. All of it columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from stages.common.records import Dropped
from stages.synthesis.triples import TRIPLE_SCHEMA

# document_id, name, type: whom the document is about. start, end: where its text says that name; 0, 0: only its title does.
NAME_SCHEMA: dict[str, Any] = {
    "document_id": pl.String,
    "name": pl.String,
    "type": pl.String,
    "start": pl.UInt32,
    "end": pl.UInt32,
}


@dataclass
class Extracted:
    """What one shard, or the whole corpus, yields.

    triples: columns of triples.py. names: NAME_SCHEMA, a row per document.
    phrases: hashes of the capitalised phrases of each document, one entry per document that has the phrase.
    """

    triples: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TRIPLE_SCHEMA))
    names: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=NAME_SCHEMA))
    phrases: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    dropped: list[Dropped] = field(default_factory=list)
    documents: int = 0


def joined(parts: Sequence[Extracted]) -> Extracted:
    """The shards' results as one, in their order."""
    if not parts:
        return Extracted()
    return Extracted(
        pl.concat([part.triples for part in parts]),
        pl.concat([part.names for part in parts]),
        np.concatenate([part.phrases for part in parts]),
        [record for part in parts for record in part.dropped],
        sum(part.documents for part in parts),
    )


def phrases_of_one_document(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The sorted hashes that occur in one document only."""
    values, counts = np.unique(hashes, return_counts=True)
    alone: npt.NDArray[np.uint64] = values[counts == 1]
    return alone
