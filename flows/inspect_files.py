"""Finding records in the files that the data stages leave: samples by id or task, drops by reason, documents by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.errors import InputError
from stages.common.records import QAPair, Sample
from stages.common.storage import DocumentStore, iter_json_lines

# Latest first: the first file that holds a sample says most about it.
SAMPLE_FILES: tuple[tuple[str, str], ...] = (
    ("stratify/train", "stratify/data/train.jsonl"),
    ("stratify/sft", "stratify/data/sft.jsonl"),
    ("stratify/heldout", "stratify/data/heldout.jsonl"),
    ("verify", "verify/data/samples.jsonl"),
    ("assemble", "assemble/data/samples.jsonl"),
    ("synthesize", "synthesize/*/data/qa.jsonl"),
)
_LISTED_FROM = ("verify", "assemble", "synthesize")  # where a list of all samples comes from


@dataclass(frozen=True)
class Found:
    """A sample (or a question that has no context yet) and the files that hold it."""

    pair: QAPair
    files: tuple[str, ...]
    verification: Mapping[str, Any] | None

    @property
    def sample(self) -> Sample | None:
        return self.pair if isinstance(self.pair, Sample) else None


class StageFiles:
    """The data stages' outputs below one folder, normally `outputs/`."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs

    def sample_files(self) -> list[tuple[str, Path]]:
        """(name, path) of every file with samples or questions, latest stage first."""
        found = []
        for name, pattern in SAMPLE_FILES:
            for path in sorted(self.outputs.glob(pattern)):
                task = path.parent.parent.name
                found.append((f"synthesize@{task}" if name == "synthesize" else name, path))
        return found

    def drop_files(self) -> list[tuple[str, Path]]:
        """(stage, path) of every file with drops."""
        found = []
        for path in sorted(self.outputs.glob("**/data/dropped.jsonl")):
            found.append(("@".join(path.parent.parent.relative_to(self.outputs).parts), path))
        return found

    def find(self, sample_id: str) -> Found:
        """The sample of that id, or of the only id that begins so. InputError if there is none, or several."""
        self._require_files()
        holders: dict[str, list[str]] = {}
        latest: dict[str, dict[str, Any]] = {}
        for name, path in self.sample_files():
            for row in iter_json_lines(path):
                if str(row.get("id", "")).startswith(sample_id):
                    holders.setdefault(row["id"], []).append(name)
                    latest.setdefault(row["id"], row)
        if sample_id in latest:
            latest = {sample_id: latest[sample_id]}
        if len(latest) > 1:
            some = ", ".join(sorted(latest)[:5])
            raise InputError(
                f"{len(latest)} samples have an id that begins with {sample_id!r}: {some} ... Give more of it."
            )
        if not latest:
            self._say_dropped(sample_id)
            raise InputError(f"there is no sample {sample_id!r}. `longfuse inspect --task TASK` lists those there are.")
        found_id, row = next(iter(latest.items()))
        pair = (Sample if "context" in row else QAPair).model_validate(row)
        return Found(pair, tuple(holders[found_id]), self._verification(found_id))

    def _say_dropped(self, sample_id: str) -> None:
        for stage, row in self.drops():
            if str(row["record"].get("id", "")).startswith(sample_id):
                raise InputError(
                    f"{row['record']['id']} was dropped by {stage}: {row['reason']}, {row['detail']} "
                    f"`longfuse inspect --dropped {row['reason']}` shows all of them."
                )

    def _verification(self, sample_id: str) -> Mapping[str, Any] | None:
        path = self.outputs / "verify/data/verification.jsonl"
        rows = iter_json_lines(path) if path.is_file() else iter(())
        return next((row for row in rows if row["id"] == sample_id), None)

    def samples(self, stage: str | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(file's name, row) of all samples of the latest data stage that has any, or of a named stage's files."""
        self._require_files()
        files = self.sample_files()
        if stage is None:
            kinds = [kind for kind in _LISTED_FROM if any(name.startswith(kind) for name, _ in files)]
            chosen = [(name, path) for name, path in files if kinds and name.startswith(kinds[0])]
        else:
            chosen = [
                (name, path) for name, path in files if name == stage or name.split("/")[0].split("@")[0] == stage
            ]
            if not chosen:
                known = ", ".join(name for name, _ in files)
                raise InputError(f"stage {stage!r} has left no samples. There are those of: {known}.")
        for name, path in chosen:
            for row in iter_json_lines(path):
                yield name, row

    def drops(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(stage, row) of everything that a stage has dropped."""
        for stage, path in self.drop_files():
            for row in iter_json_lines(path):
                yield stage, row

    def drop_counts(self) -> Counter[tuple[str, str]]:
        """How many records per (stage, reason)."""
        return Counter((stage, str(row["reason"])) for stage, row in self.drops())

    def merges(self) -> list[Mapping[str, Any]]:
        """Every merge of the knowledge graph (stages/synthesis/merges.py). InputError if there is no graph yet."""
        path = self.outputs / "synthesize/multi_hop/data/merges.jsonl"
        if not path.is_file():
            raise InputError(f"{path} does not exist. `longfuse run --only synthesize@multi_hop` makes it.")
        return list(iter_json_lines(path))

    def documents(self) -> DocumentStore:
        """The documents that contexts refer to: assemble's, or ingest's if there are no contexts yet."""
        assembled = self.outputs / "assemble/data/documents.jsonl"
        if assembled.is_file():
            return DocumentStore([assembled])
        return DocumentStore(sorted((self.outputs / "ingest/data").glob("d*/*.jsonl")))

    def _require_files(self) -> None:
        if not self.sample_files():
            raise InputError(
                f"{self.outputs} holds no samples yet. `longfuse run --only stratify` makes them, or name another folder "
                "with --outputs."
            )
