"""What the generators share: building a QAPair with its id and quotes, and writing a stage's files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stages.common.errors import NotEnoughDataError
from stages.common.records import AnswerKind, Dropped, Evidence, QAPair, Span, TaskType
from stages.common.storage import DocumentStore, write_json, write_jsonl
from stages.synthesis.config import GeneratorConfig

log = logging.getLogger(__name__)


def make_pair(
    *,
    task_type: TaskType,
    question: str,
    answer: str | list[str],
    answer_kind: AnswerKind,
    evidence: Sequence[Evidence],
    proof: dict[str, Any],
    generator: str,
    seed: int,
    choices: Sequence[str] = (),
) -> QAPair:
    """A QAPair whose id is the hash of what is asked, answered and cited."""
    content = json.dumps(
        [question, answer, list(choices), [(span.document_id, span.start, span.end) for span in evidence]],
        ensure_ascii=False,
    )
    return QAPair(
        id=f"{task_type}-{hashlib.sha256(content.encode()).hexdigest()[:12]}",
        task_type=task_type,
        question=question,
        answer=answer,
        answer_kind=answer_kind,
        choices=list(choices),
        evidence=list(evidence),
        proof=proof,
        generator=generator,
        seed=seed,
    )


def quote_span(documents: DocumentStore, span: Span) -> Evidence:
    """The span with its text."""
    return Evidence(document_id=span.document_id, start=span.start, end=span.end, quote=documents.text_of(span))


def write_pairs(
    out_dir: Path,
    task_type: TaskType,
    pairs: Sequence[QAPair],
    dropped: Sequence[Dropped],
    config: GeneratorConfig,
    not_kept: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Write qa.jsonl, dropped.jsonl and summary.json; return the counts.

    not_kept: drops by reason beyond those whose records are in `dropped`; the summary counts both.
    NotEnoughDataError if there are fewer than `min_questions`.
    """
    if len(pairs) < config.min_questions:
        raise NotEnoughDataError(
            f"the corpus is too small for {task_type}: {len(pairs)} questions found, at least {config.min_questions} "
            f"needed (synthesize.{task_type}.min_questions). Add documents to ingest.sources, or lower it."
        )
    if len(pairs) < config.questions:
        log.warning("%s: %d questions found, %d wanted", task_type, len(pairs), config.questions)
    write_jsonl(out_dir / "qa.jsonl", pairs)
    write_jsonl(out_dir / "dropped.jsonl", dropped)
    reasons = Counter(record.reason for record in dropped) + Counter(not_kept)
    counts = {"questions": len(pairs), "wanted": config.questions, "dropped": reasons.total()}
    write_json(
        out_dir / "summary.json",
        {
            "counts": counts,
            "dropped": dict(reasons),
            "dropped_records_kept": len(dropped),
            "generators": dict(Counter(pair.generator for pair in pairs)),
        },
    )
    log.info("%s: %d questions", task_type, len(pairs))
    return counts
