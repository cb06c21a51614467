"""Held-out questions of the pipeline's own data, per task type: what training should improve first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from stages.common.prompts import materialise_context
from stages.common.records import Sample, TaskType
from stages.common.storage import DocumentStore
from stages.evaluation.base import Question
from stages.evaluation.samples import METRICS, sample_question


def heldout_questions(
    samples: Sequence[Sample], documents: DocumentStore, questions_per_task: Mapping[str, int]
) -> list[Question]:
    """The first questions of each task type, in the order of TaskType; fewer where there are fewer.

    The first n are a part of the first n + 1, so models that are asked differently many share questions.
    """
    questions = []
    for task in TaskType:
        of_task = [sample for sample in samples if sample.task_type is task]
        chosen = of_task[: questions_per_task.get(task.value, 0)]
        # Named after all samples of the task, so that the name is the same however few a model is asked.
        metrics = {METRICS[sample.answer_kind] for sample in of_task}
        questions += [
            sample_question(
                sample,
                benchmark=f"heldout/{task.value}",
                context=partial(materialise_context, sample, documents),
                metric=min(metrics) if len(metrics) == 1 else "rule_score",
                evidence_position=evidence_position(sample),
            )
            for sample in chosen
        ]
    return questions


def evidence_position(sample: Sample) -> float | None:
    """Where the first evidence begins in the context, as a share of its characters (headings not counted).

    None if no evidence lies in the context.
    """
    total = sum(span.end - span.start for span in sample.context)
    before = 0
    for span in sample.context:
        inside = [
            evidence.start - span.start
            for evidence in sample.evidence
            if evidence.document_id == span.document_id and span.start <= evidence.start < span.end
        ]
        if inside:
            return (before + min(inside)) / total
        before += span.end - span.start
    return None
