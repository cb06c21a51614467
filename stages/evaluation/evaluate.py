"""The evaluate stages: one model, asked the held-out questions, a needle test and dialogue recall.

Writes predictions.jsonl (every question with its answer) and scores.json (means with 95 % intervals). The paper's own
benchmarks need data that a package registry does not have; these three have the same forms and are made from the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.common.metrics import Emit
from stages.common.records import Sample, TaskType
from stages.common.storage import DocumentStore, open_model_pointer, read_records, write_json, write_jsonl
from stages.common.tokens import ChatTokenizer
from stages.engines.base import RolloutEngine
from stages.engines.transformers_engine import TransformersEngine
from stages.evaluation.asking import ask_all
from stages.evaluation.base import Prediction, Question
from stages.evaluation.benchmarks.dialogue_recall import dialogue_questions
from stages.evaluation.benchmarks.heldout import heldout_questions
from stages.evaluation.benchmarks.needle import needle_questions
from stages.evaluation.config import EvaluateStage
from stages.evaluation.scoring import score_rows

_QUESTION_TOKENS = 192  # kept free for chat template, question and form of the answer
_MIN_CONTEXT_TOKENS = 64


def run(
    config: EvaluateStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Ask one model; `out_dir` is `<model's name>/data`.

    Raises InputError for a damaged input, a model that cannot be opened, or lengths that its window cannot hold.
    """
    model_dir = open_model_pointer(inputs["model"])
    documents = DocumentStore([inputs["documents"]])
    samples = read_records(inputs["heldout"], Sample)
    questions = build_questions(config, samples, documents, ChatTokenizer(model_dir))

    def make_engine() -> RolloutEngine:
        return TransformersEngine(model_dir, compute_dtype=config.train.compute_dtype)

    def progress(chunk: int, so_far: list[Prediction]) -> None:
        emit(
            chunk,
            {
                "progress/prompts": float(len(so_far)),
                "progress/tokens": float(sum(p.prompt_tokens + p.response_tokens for p in so_far)),
            },
        )

    predictions = ask_all(make_engine, questions, config.shared, config.seed, state_dir, progress)
    rows = score_rows(questions, predictions, config.seed)
    write_jsonl(out_dir / "predictions.jsonl", predictions)
    write_json(out_dir / "scores.json", {"model": out_dir.parent.name, "scores": rows})
    emit(0, {f"score/{row['benchmark']}/{row['mode']}": row["mean"] for row in rows})
    return {
        "questions": len(predictions),
        "prompt_tokens": sum(prediction.prompt_tokens for prediction in predictions),
        "response_tokens": sum(prediction.response_tokens for prediction in predictions),
    }


def build_questions(
    config: EvaluateStage, samples: Sequence[Sample], documents: DocumentStore, tokenizer: ChatTokenizer
) -> list[Question]:
    """Everything that the plan asks, full context first, in an order that depends on nothing else."""
    shared, plan, seed = config.shared, config.plan, config.seed

    def count(text: str) -> int:
        return len(tokenizer.encode_text(text))

    questions = heldout_questions(samples, documents, plan.questions_per_task, "full_context")
    for tokens in shared.needle_tokens:
        room = _context_room(tokens, shared.max_input_tokens)
        questions += needle_questions(documents, tokens, room, plan.needle_questions, "full_context", seed, count)
    for tokens in shared.dialogue_tokens:
        room = _context_room(tokens, shared.max_input_tokens)
        questions += dialogue_questions(
            documents, tokens, room, shared.max_output_tokens, plan.dialogue_questions, "full_context", seed, count
        )
    in_agent_mode = plan.agent_questions_per_task
    if in_agent_mode:
        per_task = {task.value: in_agent_mode for task in TaskType}
        questions += heldout_questions(samples, documents, per_task, "agent")
        for tokens in sorted(shared.needle_tokens)[-1:]:  # the longest alone: the agent reads it in turns
            questions += needle_questions(documents, tokens, tokens, in_agent_mode, "agent", seed, count)
    return questions


def _context_room(tokens: int, max_input_tokens: int) -> int:
    """Length of a made context: as asked, unless its question would then push it over the limit and cost its middle."""
    room = min(tokens, max_input_tokens - _QUESTION_TOKENS)
    return room if room >= _MIN_CONTEXT_TOKENS else tokens
