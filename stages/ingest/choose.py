"""Which documents stay: not too short, repetitive or damaged; one of each text; one of each near copy; none of a benchmark's.

Every rule sees what the rules before it left. Nothing depends on the order in which documents arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.records import Category
from stages.ingest.config import IngestConfig
from stages.ingest.decontaminate import Benchmarks, boilerplate
from stages.ingest.near_duplicates import near_duplicates
from stages.ingest.reasons import DropReason
from stages.ingest.shard_reader import Found


@dataclass(frozen=True)
class Candidate:
    """A document that could be read. `where`: its file, with the line or row for one of many."""

    id: str
    category: Category
    where: str
    source: str
    key: str
    place: int
    found: Found


@dataclass(frozen=True)
class Drop:
    """A document that goes; `facts` are added to its record."""

    candidate: Candidate
    reason: DropReason
    detail: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """kept, drops: in order of ids. boilerplate: benchmark 13-grams that are too common to count."""

    kept: list[Candidate]
    drops: list[Drop]
    boilerplate: list[int]


def choose(candidates: Iterable[Candidate], config: IngestConfig, benchmarks: Benchmarks) -> Choice:
    """Apply every rule."""
    kept = sorted(candidates, key=lambda candidate: (candidate.id, candidate.where))
    drops: list[Drop] = []
    for rule in (_quality(config), _same_id(), _same_text()):
        kept = _apply(rule, kept, drops)
    kept = _without(kept, _near_copies(kept, config.near_duplicate_similarity), drops)
    common = boilerplate([candidate.found.hits.tolist() for candidate in kept], len(kept))
    kept = _without(kept, _contaminated(kept, benchmarks, common), drops)
    drops.sort(key=lambda drop: (drop.candidate.id, drop.candidate.where))
    return Choice(kept, drops, sorted(common))


_Verdict = tuple[DropReason, str, dict[str, Any]] | None


def _apply(rule: Callable[[Candidate], _Verdict], kept: list[Candidate], drops: list[Drop]) -> list[Candidate]:
    return _without(kept, {index: verdict for index, c in enumerate(kept) if (verdict := rule(c))}, drops)


def _without(
    kept: list[Candidate], verdicts: dict[int, tuple[DropReason, str, dict[str, Any]]], drops: list[Drop]
) -> list[Candidate]:
    drops.extend(Drop(kept[index], *verdict) for index, verdict in verdicts.items())
    return [candidate for index, candidate in enumerate(kept) if index not in verdicts]


def _quality(config: IngestConfig) -> Callable[[Candidate], _Verdict]:
    def rule(candidate: Candidate) -> _Verdict:
        quality = candidate.found.measured.quality
        if quality.characters < config.min_characters:
            detail = f"{quality.characters} characters, fewer than {config.min_characters} (ingest.min_characters)"
            return DropReason.TOO_SHORT, detail, {}
        limits = [
            ("damaged", quality.damaged, config.max_damaged, DropReason.DAMAGED, "of the characters are damaged"),
            ("boilerplate", quality.boilerplate, config.max_boilerplate, DropReason.BOILERPLATE, "is boilerplate"),
        ]
        if candidate.found.format != "python":  # code repeats itself by nature
            limits += [
                ("duplicate_lines", quality.duplicate_lines, config.max_duplicate_lines, DropReason.REPETITIVE,
                 "stands in lines that occurred before"),
                ("repeated_ngrams", quality.repeated_ngrams, config.max_repeated_ngrams, DropReason.REPETITIVE,
                 "of the words stand in a 10-gram that occurred before"),
            ]  # fmt: skip
        for name, share, limit, reason, what in limits:
            if share > limit:
                return reason, f"{share:.1%} {what}, more than {limit:.1%} (ingest.max_{name})", {}
        return None

    return rule


def _same_id() -> Callable[[Candidate], _Verdict]:
    seen: set[str] = set()

    def rule(candidate: Candidate) -> _Verdict:
        if candidate.id in seen:
            return DropReason.DUPLICATE_ID, f"another document has the id {candidate.id}; rename the file", {}
        seen.add(candidate.id)
        return None

    return rule


def _same_text() -> Callable[[Candidate], _Verdict]:
    first: dict[str, str] = {}

    def rule(candidate: Candidate) -> _Verdict:
        original = first.setdefault(candidate.found.measured.text_key, candidate.id)
        if original == candidate.id:
            return None
        return DropReason.DUPLICATE, f"the same text as {original}", {"twin": original}

    return rule


def _near_copies(kept: Sequence[Candidate], threshold: float) -> dict[int, tuple[DropReason, str, dict[str, Any]]]:
    """The longest of a family stays, then the first by id."""
    order = sorted(range(len(kept)), key=lambda i: (-kept[i].found.measured.tokens, kept[i].id))
    rank = {index: place for place, index in enumerate(order)}
    gone = near_duplicates([c.found.signature for c in kept], [rank[i] for i in range(len(kept))], threshold)
    return {
        index: (
            DropReason.NEAR_DUPLICATE,
            f"{alike:.0%} of its word 5-grams are those of {kept[twin].id} (ingest.near_duplicate_similarity)",
            {"twin": kept[twin].id, "similarity": alike},
        )
        for index, (twin, alike) in gone.items()
    }


def _contaminated(
    kept: Sequence[Candidate], benchmarks: Benchmarks, common: frozenset[int]
) -> dict[int, tuple[DropReason, str, dict[str, Any]]]:
    verdicts = {}
    for index, candidate in enumerate(kept):
        grams = [gram for gram in candidate.found.hits.tolist() if gram not in common]
        if grams:
            names = sorted({name for gram in grams for name in benchmarks.owners(gram)})
            detail = f"{len(grams)} runs of 13 words stand also in {', '.join(names)} (ingest.decontaminate_against)"
            verdicts[index] = (DropReason.CONTAMINATED, detail, {"benchmarks": names, "grams": grams})
    return verdicts
