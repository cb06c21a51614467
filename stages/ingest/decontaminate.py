"""Which documents hold words of a benchmark: 13-grams of questions, answers and gold evidence, boilerplate apart.

A 13-gram that occurs in at least 1 % of the documents (and in three: in a corpus of fewer than 300, one document would be 1 %) is
boilerplate ("in accordance with accounting principles generally accepted in the United States of America") and ignored; a document that
holds any other 13-gram of a benchmark is dropped. Counted are all documents before any is dropped for this reason: otherwise a phrase
would cease to be boilerplate because documents that hold it have gone for another one.

Benchmarks lie in a folder: `*.jsonl` with lines {"benchmark", "id", "question", "answers": [...], "evidence": [...]}, or `*.parquet` with the
columns `benchmark` and `gram` (hashes only, for texts that may not be passed on; benchmarks/decontamination_set.py writes both).

Legend: P pairs (13-gram, benchmark), sorted by 13-gram.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stages.common.errors import InputError
from stages.common.records import Record
from stages.common.storage import iter_records
from stages.ingest.words import Hashes, WordHasher, gram_hashes, words_of

GRAM_WORDS = 13
BOILERPLATE_SHARE = 0.01
MIN_BOILERPLATE_DOCUMENTS = 3


class BenchmarkText(Record):
    """What of one benchmark item must not be trained on."""

    benchmark: str
    id: str
    question: str = ""
    answers: list[str] = Field(default_factory=list)
    evidence: list[str] = Field(
        default_factory=list, description="The passages that support the answer, not the whole context."
    )

    def grams(self, hasher: WordHasher) -> Hashes:
        """Its distinct 13-grams; none crosses from one text to the next."""
        texts = [self.question, *self.answers, *self.evidence]
        return np.unique(np.concatenate([gram_hashes(hasher(words_of(text)), GRAM_WORDS) for text in texts]))


@dataclass(frozen=True)
class Benchmarks:
    """names[owner_P[i]] is the benchmark that holds grams_P[i]."""

    names: tuple[str, ...]
    grams_P: Hashes
    owner_P: npt.NDArray[np.int32]

    @property
    def grams(self) -> Hashes:
        """The distinct 13-grams, sorted."""
        return np.unique(self.grams_P)

    def owners(self, gram: int) -> list[str]:
        """The benchmarks that hold a 13-gram."""
        first, last = np.searchsorted(self.grams_P, np.array([gram, gram], dtype=np.uint64), side="left")
        last = np.searchsorted(self.grams_P, np.uint64(gram), side="right")
        return sorted(self.names[owner] for owner in self.owner_P[first:last])


def load_benchmarks(folder: Path) -> Benchmarks:
    """Every benchmark below a folder; none if it is empty. Raises InputError for a missing folder or a damaged file."""
    if not folder.is_dir():
        raise InputError(
            f"ingest.decontaminate_against is {folder.name!r}, which is no folder. Name a folder; an empty one switches this off."
        )
    hasher = WordHasher()
    found: dict[str, list[Hashes]] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for item in iter_records(path, BenchmarkText):
            found.setdefault(item.benchmark, []).append(item.grams(hasher))
    for path in sorted(folder.rglob("*.parquet")):
        for name, grams in _read_hashes(path):
            found.setdefault(name, []).append(grams)
    names = tuple(sorted(found))
    per_name = [np.unique(np.concatenate(found[name])) for name in names]
    grams = np.concatenate([*per_name, np.empty(0, dtype=np.uint64)])
    owner = np.repeat(np.arange(len(names), dtype=np.int32), [len(grams) for grams in per_name])
    order = np.argsort(grams, kind="stable")
    return Benchmarks(names, grams[order], owner[order])


def _read_hashes(path: Path) -> list[tuple[str, Hashes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["benchmark", "gram"])
        names = table["benchmark"].cast(pa.string()).to_numpy(zero_copy_only=False)
        grams = table["gram"].cast(pa.uint64()).to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(
            f"{path} is no table of 13-grams ({error}). Make it with benchmarks/decontamination_set.py."
        ) from None
    return [(str(name), grams[names == name]) for name in sorted(set(names.tolist()))]


def hits_of(words_N: Hashes, benchmark_grams: Hashes) -> Hashes:
    """The distinct 13-grams of a text that are also a benchmark's (`benchmark_grams` is sorted)."""
    if not len(benchmark_grams):
        return np.empty(0, dtype=np.uint64)
    grams = gram_hashes(words_N, GRAM_WORDS)
    place = np.minimum(np.searchsorted(benchmark_grams, grams), len(benchmark_grams) - 1)
    return np.unique(grams[benchmark_grams[place] == grams])


def boilerplate(hits: Iterable[Sequence[int]], documents: int) -> frozenset[int]:
    """The 13-grams that stand in too many documents to say anything.

    hits: of each document, the distinct benchmark 13-grams it holds; documents: how many there are, those without a hit included.
    """
    frequency = Counter(gram for grams in hits for gram in grams)
    least = max(MIN_BOILERPLATE_DOCUMENTS, math.ceil(BOILERPLATE_SHARE * documents))
    return frozenset(gram for gram, count in frequency.items() if count >= least)


def overlap(text: str, grams: Sequence[int], hasher: WordHasher) -> str:
    """The words of the first of these 13-grams in a text; empty if there is none."""
    words = words_of(text)
    places = np.flatnonzero(np.isin(gram_hashes(hasher(words), GRAM_WORDS), np.array(grams, dtype=np.uint64)))
    return " ".join(words[places[0] : places[0] + GRAM_WORDS]) if len(places) else ""
