"""`longfuse inspect`: samples with their evidence and proof, drops with their reason, merges of the graph with their rule."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from flows.inspect_files import StageFiles
from flows.inspect_text import drop_lines, list_lines, merge_lines, safe, sample_lines
from stages.common.errors import ConfigError, InputError
from stages.common.prompts import materialise_context
from stages.common.records import Sample, TaskType
from stages.synthesis.shown import shown_evidence, shown_spans


def inspect(
    outputs: Path,
    sample_id: str | None = None,
    *,
    task: str | None = None,
    dropped: str | None = None,
    merges: bool = False,
    stage: str | None = None,
    limit: int = 20,
    whole_context: bool = False,
    as_json: bool = False,
    colour: bool = False,
) -> str:
    """What the command prints. Exactly one of sample_id, task, dropped and merges, or none for an overview.

    ConfigError for flags that do not go together or an unknown task; InputError if there is nothing to show.
    """
    if sum(choice is not None for choice in (sample_id, task, dropped, merges or None)) > 1:
        raise ConfigError("give a sample's id, --task, --dropped or --merges: one of them.")
    if limit < 1:
        raise ConfigError(f"--limit is {limit}; give 1 or more.")
    files = StageFiles(outputs)
    if sample_id is not None:
        return _sample(files, sample_id, whole_context=whole_context, as_json=as_json, colour=colour)
    if task is not None:
        return _task(files, task, stage, limit, as_json=as_json)
    if dropped is not None:
        return _dropped(files, dropped, stage, limit, as_json=as_json)
    if merges:
        return _merges(files, limit, as_json=as_json)
    return _overview(files, as_json=as_json)


def _sample(files: StageFiles, sample_id: str, *, whole_context: bool, as_json: bool, colour: bool) -> str:
    found = files.find(sample_id)
    documents = files.documents()
    if not as_json:
        return "\n".join(sample_lines(found, documents, colour=colour, whole_context=whole_context))
    value: dict[str, Any] = {
        **found.pair.model_dump(mode="json"),
        "files": list(found.files),
        "verification": found.verification,
    }
    if isinstance(found.pair, Sample):
        evidence = shown_evidence(found.pair, shown_spans(found.pair, documents))
        value["evidence_positions"] = [round(shown.position, 4) for shown in evidence]
        if whole_context:
            value["context_text"] = materialise_context(found.pair, documents)
    return _json(value)


def _task(files: StageFiles, task: str, stage: str | None, limit: int, *, as_json: bool) -> str:
    if task not in set(TaskType):
        raise ConfigError(f"there is no task type {task!r}. Known: {', '.join(TaskType)}.")
    rows = [row for _, row in files.samples(stage) if row["task_type"] == task]
    if not rows:
        raise InputError(f"{stage or 'the latest stage'} has no samples of {task}.")
    if as_json:
        return _json(rows[:limit])
    kinds = Counter(row["generator"] for row in rows)
    head = f"{len(rows)} samples of {task}: " + ", ".join(
        f"{safe(kind)} {count}" for kind, count in kinds.most_common()
    )
    return "\n".join([head, "", *list_lines(_spread(rows, limit), len(rows))])


def _spread(rows: list[dict[str, Any]] | list[Any], limit: int) -> list[Any]:
    """Rows from all over the file, so that a short list shows every kind."""
    return rows[:: max(1, len(rows) // limit)][:limit]


def _dropped(files: StageFiles, reason: str, stage: str | None, limit: int, *, as_json: bool) -> str:
    counts = files.drop_counts()
    wanted = [
        (where, why)
        for where, why in counts
        if reason in ("all", why) and (stage is None or where == stage or where.split("@")[0] == stage)
    ]
    if not wanted:
        known = ", ".join(sorted({why for _, why in counts})) or "none"
        raise InputError(
            f"nothing was dropped for {reason!r}{f' by {stage}' if stage else ''}. Reasons there are: {known}."
        )
    chosen = set(wanted)
    matching = ((where, row) for where, row in files.drops() if (where, str(row["reason"])) in chosen)
    shown = list(islice(matching, limit))
    if as_json:
        return _json([row for _, row in shown])
    return "\n".join(drop_lines(shown, sum(counts[key] for key in chosen)))


def _merges(files: StageFiles, limit: int, *, as_json: bool) -> str:
    rows = files.merges()
    if as_json:
        return _json(rows[:limit])
    kinds = Counter(f"{row['kind']}, {row['rule']}" for row in rows)
    head = f"{len(rows)} merges in the knowledge graph: " + "; ".join(
        f"{safe(kind)} {count}" for kind, count in kinds.most_common()
    )
    return "\n".join([head, "", *merge_lines(_spread(rows, limit), len(rows))])


def _overview(files: StageFiles, *, as_json: bool) -> str:
    held: dict[str, Counter[str]] = {}
    for name, path in files.sample_files():
        from stages.common.storage import iter_json_lines

        held[name] = Counter(str(row["task_type"]) for row in iter_json_lines(path))
    drops = files.drop_counts()
    if not held and not drops:
        raise InputError(
            f"{files.outputs} holds no samples yet. `longfuse run --only stratify` makes them, or name another folder with "
            "--outputs."
        )
    if as_json:
        return _json(
            {
                "samples": {name: dict(sorted(counts.items())) for name, counts in held.items()},
                "dropped": [{"stage": s, "reason": r, "records": n} for (s, r), n in sorted(drops.items())],
            }
        )
    lines = ["Samples"]
    for name, counts in held.items():
        tasks = ", ".join(f"{task} {count}" for task, count in sorted(counts.items()))
        lines.append(f"  {name:<34} {counts.total():>7,}   {tasks}")
    lines += ["", "Dropped"]
    lines += [f"  {stage:<34} {count:>7,}   {safe(reason)}" for (stage, reason), count in sorted(drops.items())]
    lines += ["", "longfuse inspect SAMPLE_ID | --task TASK | --dropped REASON (or all) | --merges"]
    return "\n".join(lines)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=True)
