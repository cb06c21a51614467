"""What was kept, dropped and mended, for dropped.jsonl, notes.jsonl and summary.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.common.records import Category, Document, Dropped
from stages.common.storage import write_json, write_jsonl
from stages.ingest.cache import ParsedCache
from stages.ingest.choose import Drop
from stages.ingest.decontaminate import Benchmarks, overlap
from stages.ingest.discover import Discovery, printable_path
from stages.ingest.parsed import Note
from stages.ingest.reasons import DropReason
from stages.ingest.shard_reader import UnitResult
from stages.ingest.words import WordHasher

_SHOWN_CHARACTERS = 400


class Tally:
    """Totals per category, format, language and benchmark, and every drop."""

    def __init__(self, benchmarks: Benchmarks) -> None:
        self.drops: list[Dropped] = []
        self._notes: list[Note] = []
        self._formats: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._lost: Counter[str] = Counter(dict.fromkeys(benchmarks.names, 0))
        self._tables = 0
        self._categories = {c.value: {"documents": 0, "characters": 0, "tokens": 0} for c in Category}

    def keep(self, document: Document) -> None:
        self._formats[document.format] += 1
        self._languages[document.language] += 1
        self._tables += len(document.tables)
        totals = self._categories[document.category.value]
        totals["documents"] += 1
        totals["characters"] += len(document.text)
        totals["tokens"] += document.tokens

    def add(self, result: UnitResult) -> None:
        """The problems and notes of a unit."""
        self._notes += result.notes
        for problem in result.problems:
            self.drop(problem.path, problem.reason, problem.detail)

    def drop(self, path: str, reason: DropReason, detail: str, **facts: Any) -> None:
        record = {"path": printable_path(path), **facts}
        self.drops.append(Dropped(reason=reason.value, stage="ingest", detail=detail, record=record))

    def add_drops(self, drops: Iterable[Drop], cache: ParsedCache) -> None:
        """Documents that were read, and then not chosen: with the beginning of their text, and what gave them away."""
        hasher = WordHasher()
        for drop in drops:
            candidate = drop.candidate
            unit = cache.get(candidate.key)
            text = unit.unit.documents[candidate.place].text if unit is not None else ""
            facts = {key: value for key, value in drop.facts.items() if key != "grams"}
            if drop.reason is DropReason.CONTAMINATED:
                self._lost.update(facts["benchmarks"])
                facts["overlap"] = overlap(text, drop.facts["grams"], hasher)
            self.drop(
                candidate.where,
                drop.reason,
                drop.detail,
                id=candidate.id,
                title=candidate.found.title,
                tokens=candidate.found.measured.tokens,
                beginning=text[:_SHOWN_CHARACTERS],
                **facts,
            )

    def drops_by_reason(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))

    def write(self, out_dir: Path, found: Discovery, boilerplate: list[int]) -> dict[str, int]:
        """Write everything but the documents; return the counts."""
        counts = {
            "files": found.files,
            "skipped": found.skipped,
            "documents": self._formats.total(),
            "dropped": len(self.drops),
            "tokens": sum(totals["tokens"] for totals in self._categories.values()),
            "tables": self._tables,
        }
        write_jsonl(out_dir / "dropped.jsonl", self.drops)
        write_jsonl(out_dir / "notes.jsonl", self._notes)
        # With these anyone can check again that no kept document holds another 13-gram of a benchmark.
        write_json(out_dir / "boilerplate_grams.json", boilerplate)
        write_json(
            out_dir / "summary.json",
            {
                "counts": counts,
                "dropped": self.drops_by_reason(),
                "categories": self._categories,
                "formats": dict(self._formats),
                "languages": {name or "unknown": count for name, count in self._languages.items()},
                "decontamination": {"documents_lost": dict(self._lost), "boilerplate_grams": len(boilerplate)},
            },
        )
        return counts
