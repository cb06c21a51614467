"""What the memory agent read for some questions of an evaluation, for MLflow's Traces (stages/memory/record.py).

A stage may ask thousands; RECORDED of them are shown, spread over all that it asks in agent mode, the first sample of each. A record
is handed on once its question's answers are kept: a question that is asked again after a kill was not recorded before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.common.metrics import Emit, record_trajectory
from stages.evaluation.base import Prediction
from stages.evaluation.finished import Answer
from stages.evaluation.planning import Key, Planned
from stages.evaluation.predictions import score_answers
from stages.memory.record import cut, trajectory_record, verdict_record
from stages.memory.results import AgentResult

RECORDED = 64
_GOLD_CHARACTERS = 1000


class Recorder:
    """Takes trajectories while they are asked, and records those that were chosen when they are scored."""

    def __init__(self, planned: Sequence[Planned], emit: Emit) -> None:
        agent = [item.key for item in planned if item.mode == "memory_agent"]
        self._chosen = set(agent[:: -(-len(agent) // RECORDED) or 1])
        self._read: dict[Key, dict[str, Any]] = {}
        self._emit = emit

    def read(self, planned: Planned, sample: int, result: AgentResult) -> None:
        """A trajectory has ended."""
        if sample == 0 and planned.key in self._chosen:
            key = "/".join(planned.key)
            self._read[planned.key] = trajectory_record(key, planned.question.question, result, {})

    def kept(self, planned: Planned, answers: Sequence[Answer]) -> None:
        """The answers of a question are kept. Its score here is the rule's: a judge is asked when all is answered (`judged`)."""
        record = self._read.pop(planned.key, None)
        if record is None:
            return
        prediction = score_answers(planned, answers[:1])[0]
        question = planned.question
        record["attributes"] |= {
            "benchmark": question.benchmark,
            "sample_id": question.id,
            "task_type": question.task_type,
            "gold": cut(str(question.gold), _GOLD_CHARACTERS),
            "metric": prediction.metric,
            "rule_score": prediction.rule_score,
        }
        record_trajectory(self._emit, record)

    def judged(self, predictions: Sequence[Prediction]) -> None:
        """All is scored: what a judge said of the answers whose trajectories were recorded, now or before a kill."""
        for found in predictions:
            key = (found.benchmark, found.mode, found.sample_id)
            if found.sample == 0 and found.judge is not None and key in self._chosen:
                record_trajectory(self._emit, verdict_record("/".join(key), found.judge, found.score))
