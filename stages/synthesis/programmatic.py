"""Programmatic verification of all samples: a map over shards of samples, then near-duplicate questions; no model.

Apart from verify.py, so that worker processes import no model code. What was found of a shard is kept in the stage's state, so
that an interrupted run resumes at the shard.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from stages.common.file_ranges import FileRange, iter_range, line_ranges
from stages.common.records import Dropped, Sample
from stages.common.resumable import JsonLinesResults, resumable_map
from stages.common.shards import ProcessExecutor, SerialExecutor, ShardExecutor
from stages.common.storage import DocumentStore, read_records
from stages.synthesis.checks import Refusal, refusal
from stages.synthesis.near_duplicates import near_duplicates

_SHARD_BYTES = 1_000_000
_SERIAL_BYTES = 16_000_000  # with fewer documents, starting worker processes costs more than they save
_KEPT_DOCUMENTS = 1024


class Checked(BaseModel):
    """What the checks found of one sample. reason: None if it passes them all."""

    id: str
    reason: str | None = None
    detail: str = ""

    @property
    def refusal(self) -> Refusal | None:
        """As `checks.refusal` gives it."""
        return None if self.reason is None else (self.reason, self.detail)


def programmatic(samples: Sequence[Sample], documents: DocumentStore) -> tuple[list[Sample], list[Dropped]]:
    """Samples that pass every programmatic check, and the others with the reason."""
    return _sorted_out(samples, [refusal(sample, documents) for sample in samples])


def programmatic_in_parallel(
    assembled: Path, executor: ShardExecutor | None = None, state_dir: Path | None = None
) -> tuple[list[Sample], list[Dropped]]:
    """The same for a stage's folder: a map over shards of samples, which needs no model.

    state_dir: of the stage with these inputs: shards that are done are kept there; None: an interrupted run begins anew.
    """
    path = assembled / "samples.jsonl"
    shards = list(line_ranges(path, _SHARD_BYTES))
    if executor is None:
        little = (assembled / "documents.jsonl").stat().st_size < _SERIAL_BYTES or len(shards) < 2
        executor = SerialExecutor() if little else ProcessExecutor()
    check = functools.partial(check_shard, documents=assembled / "documents.jsonl")
    results = (
        executor.map(check, shards)
        if state_dir is None
        else resumable_map(executor, check, shards, state_dir / "checked", shard_key, JsonLinesResults(Checked))
    )
    samples = read_records(path, Sample)
    return _sorted_out(samples, [found.refusal for shard in results for found in shard])


def shard_key(shard: FileRange) -> str:
    """What a shard's result depends on; documents and code are those of the state's fingerprint."""
    return f"checked 2 {shard.path} {shard.start} {shard.end}"


def check_shard(shard: FileRange, documents: Path) -> Sequence[Checked]:
    """The map step: of each sample in the shard the first check that it fails."""
    store = _open_documents(documents)
    return [_checked(sample, store) for sample in iter_range(shard, Sample)]


def _checked(sample: Sample, store: DocumentStore) -> Checked:
    reason, detail = refusal(sample, store) or (None, "")
    return Checked(id=sample.id, reason=reason, detail=detail)


@functools.lru_cache(maxsize=1)
def _open_documents(path: Path) -> DocumentStore:
    """Opened once per worker process."""
    return DocumentStore([path], cached_documents=_KEPT_DOCUMENTS)


def _sorted_out(samples: Sequence[Sample], refusals: Sequence[Refusal | None]) -> tuple[list[Sample], list[Dropped]]:
    sound, dropped = [], []
    for sample, refused in zip(samples, refusals, strict=True):
        if refused is None:
            sound.append(sample)
        else:
            dropped.append(dropped_by_verify(sample, *refused))
    repeats = near_duplicates(sound)
    for sample in sound:
        if sample.id in repeats:
            dropped.append(dropped_by_verify(sample, "near_duplicate", f"asks the same as {repeats[sample.id]}"))
    return [sample for sample in sound if sample.id not in repeats], dropped


def dropped_by_verify(sample: Sample, reason: str, detail: str) -> Dropped:
    """The record of a sample that verification refused."""
    return Dropped(reason=reason, stage="verify", detail=detail, record=sample.model_dump(mode="json"))
