"""The data card: what the training set is made of, in words and figures, written beside the splits.

`datacard.md` and `datacard_*.svg`: lengths, places of the evidence, tasks and families, hops, pass rates, sources, and what was
dropped at every stage for which reason. Numbers only, so a document cannot write into it; equal samples give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.records import Sample, TaskType
from stages.common.storage import DocumentStore, write_text
from stages.synthesis.datacard_figures import bars, columns, histogram, stacked
from stages.synthesis.shown import shown_evidence, shown_spans

Drops = Mapping[str, Mapping[str, int]]  # stage -> reason -> records
Checks = Mapping[str, Mapping[str, int]]  # check -> samples, attempts, prompt_tokens, completion_tokens


def write_datacard(
    out_dir: Path,
    samples: Sequence[Sample],
    splits: Mapping[str, Sequence[Sample]],
    documents: DocumentStore,
    drops: Drops,
    pass_rates: Mapping[str, float],
    checks: Checks,
) -> None:
    """samples: all verified ones; splits: train, sft, heldout; pass_rates: sample id -> share of attempts that were right.

    checks: what each check of the verification cost.
    """
    positions = [place for sample in samples for place in _positions(sample, documents)]
    deciles = Counter(min(9, int(10 * place)) for place in positions)
    shares = {f"{10 * d}-{10 * d + 10} %": deciles[d] / max(1, len(positions)) for d in range(10)}
    tokens = sorted(sample.context_tokens for sample in samples)
    families = Counter(sample.generator for sample in samples)
    by_task = {
        str(task): {name: sum(sample.task_type is task for sample in split) for name, split in splits.items()}
        for task in TaskType
    }
    dropped = {f"{stage}: {reason}": count for stage, found in drops.items() for reason, count in found.items()}
    figures = {
        "datacard_lengths.svg": histogram(tokens, "tokens of the context"),
        "datacard_positions.svg": columns(shares, "percent of evidence", (0.05, 0.15)),
        "datacard_tasks.svg": stacked(by_task, "samples"),
        "datacard_hops.svg": stacked(_hops(samples), "samples"),
        "datacard_families.svg": bars(families, "samples"),
        **({"datacard_dropped.svg": bars(dropped, "records dropped")} if dropped else {}),
    }
    for name, svg in figures.items():
        write_text(out_dir / name, svg)
    text = _text(samples, by_task, shares, tokens, families, documents, drops, pass_rates, checks)
    write_text(out_dir / "datacard.md", text)


def _positions(sample: Sample, documents: DocumentStore) -> list[float]:
    return [shown.position for shown in shown_evidence(sample, shown_spans(sample, documents))]


def hops_of(sample: Sample) -> int:
    """Steps of a path proof; 1 for a question that is answered from one place."""
    counted = sample.proof.get("hop_count")
    if isinstance(counted, int):
        return max(1, counted)
    hops = sample.proof.get("hops")
    return max(1, len(hops)) if isinstance(hops, list) else 1


def _hops(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Evidence documents per question, by task."""
    counts: Counter[tuple[str, int]] = Counter()
    for sample in samples:
        counts[str(sample.task_type), len({span.document_id for span in sample.evidence})] += 1
    numbers = sorted({number for _, number in counts})
    names = {number: f"{number} evidence document{'s' if number > 1 else ''}" for number in numbers}
    return {
        str(task): {names[number]: counts[str(task), number] for number in numbers if counts[str(task), number]}
        for task in TaskType
    }


def _text(
    samples: Sequence[Sample],
    by_task: Mapping[str, Mapping[str, int]],
    shares: Mapping[str, float],
    tokens: Sequence[int],
    families: Mapping[str, int],
    documents: DocumentStore,
    drops: Drops,
    pass_rates: Mapping[str, float],
    checks: Checks,
) -> str:
    count = len(samples)
    splits = list(next(iter(by_task.values())))
    verified = Counter(str(sample.task_type) for sample in samples)
    hops = Counter(hops_of(sample) for sample in samples)
    kinds = Counter(str(sample.answer_kind) for sample in samples)
    shown = Counter(len({span.document_id for span in sample.context}) for sample in samples)
    used = {span.document_id for sample in samples for span in sample.context}
    categories = Counter(document_id.split("/", 1)[0] for document_id in used)
    licences = Counter(documents[document_id].licence or "not stated" for document_id in sorted(used))
    rates = Counter(_rate_name(rate) for rate in pass_rates.values())
    parts = [
        "# Data card",
        f"{count:,} verified samples over {len(used):,} documents. Every answer is re-derived from its evidence, every "
        "quote is what its document says, every context shows its evidence; contexts are stored as references to "
        "documents. A sample: question, answer, evidence spans, proof (SQL with rows, a path, or a rule), context.",
        "## Tasks and splits",
        _table(["task", "verified", *splits], [[t, verified[t], *(by_task[t][s] for s in splits)] for t in by_task]),
        "![Samples per task and split](datacard_tasks.svg)",
        "## Lengths",
        f"Tokens of the context, in the target model's tokenizer: mean {sum(tokens) / max(1, count):,.0f}, median "
        f"{tokens[count // 2]:,}, shortest {tokens[0]:,}, longest {tokens[-1]:,}, together {sum(tokens):,}. Documents per "
        f"context: {sum(n * c for n, c in shown.items()) / max(1, count):.1f} on average.",
        "![Lengths of contexts](datacard_lengths.svg)",
        "## Where the evidence stands",
        f"Share of evidence per tenth of the context: {min(shares.values()):.1%} to {max(shares.values()):.1%}.",
        _table(["part of the context", "evidence"], [[name, f"{share:.1%}"] for name, share in shares.items()]),
        "![Places of the evidence](datacard_positions.svg)",
        "## Hops and families",
        _table(["steps of the proof", "samples"], [[number, hops[number]] for number in sorted(hops)]),
        "![Evidence documents per question](datacard_hops.svg)",
        _table(["family", "samples"], sorted(families.items(), key=lambda item: (-item[1], item[0]))),
        "![Families](datacard_families.svg)",
        _table(["answer", "samples"], sorted(kinds.items(), key=lambda item: (-item[1], item[0]))),
        "## Difficulty",
        f"The base model was asked {len(pass_rates):,} of the samples; pass rate over its attempts:",
        _table(["right", "samples"], [[name, rates[name]] for name in _RATES if rates[name]]),
        "What verification cost. The programmatic checks need no model. Seconds differ between equal runs, so they are not here "
        "but among the run's metrics: `time/programmatic_s`, `time/closed_book_s`, `time/with_context_s`, `time/robustness_s`.",
        _table(
            ["check", "samples", "attempts", "prompt tokens", "tokens written"],
            [[name, *(cost.get(key, 0) for key in _COSTS)] for name, cost in checks.items()],
        ),
        "## Sources",
        _table(["category", "documents"], sorted(categories.items())),
        _table(
            ["licence", "documents"], sorted(((_plain(k), v) for k, v in licences.items()), key=lambda i: (-i[1], i[0]))
        ),
        "## Dropped",
        _table(
            ["stage", "reason", "records"], [[s, r, n] for s, found in drops.items() for r, n in sorted(found.items())]
        ),
        *(["![Dropped](datacard_dropped.svg)"] if any(drops.values()) else []),
        "`longfuse inspect --dropped REASON` shows them, `longfuse inspect SAMPLE_ID` a sample with its evidence.",
    ]
    return "\n\n".join(parts) + "\n"


_COSTS = ("samples", "attempts", "prompt_tokens", "completion_tokens")
_RATES = ("never", "below half", "half or more", "always")


def _rate_name(rate: float) -> str:
    return _RATES[0 if rate <= 0 else 3 if rate >= 1 else 1 if rate < 0.5 else 2]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(header), ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _plain(str(value))


def _plain(text: str) -> str:
    """Names come from files: nothing in them is markup, and none is long."""
    kept = "".join(c for c in text if c.isalnum() or c in " .,-+/()_:%@")
    return kept[:80] or "(unnamed)"
