"""Asks questions in chunks and keeps what is answered, so that a crash costs one chunk at most.

The chunks depend on the order of the questions alone: which questions share a batch (and so the last bits of their
logits) is the same whether or not the stage was interrupted. A finished chunk is appended to a file in state_dir.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from stages.common.prompts import answer_instruction, core_question
from stages.common.rollouts import GenerationRequest
from stages.common.seeds import derive_seed
from stages.common.text import strip_reasoning
from stages.engines.base import RolloutEngine
from stages.evaluation.base import Prediction, Question, full_context_prompt
from stages.evaluation.config import EvaluateSharedConfig
from stages.evaluation.finished import FinishedChunks
from stages.memory.agent import AgentTask, MemoryAgent

_log = logging.getLogger(__name__)

CHUNK_QUESTIONS = 32

Progress = Callable[[int, list[Prediction]], None]  # (number of the chunk, predictions of all chunks so far)


def ask_all(
    engine_factory: Callable[[], RolloutEngine],
    questions: Sequence[Question],
    shared: EvaluateSharedConfig,
    seed: int,
    state_dir: Path,
    progress: Progress,
) -> list[Prediction]:
    """Predictions of all questions, in order. The engine is made only if something is left to be asked."""
    chunks = chunks_of(questions)
    digest = _digest(questions, shared, seed)
    finished = FinishedChunks(state_dir / "predictions.jsonl", digest, [len(chunk) for chunk in chunks])
    predictions: list[Prediction] = []
    engine: RolloutEngine | None = None
    try:
        for number, chunk in enumerate(chunks):
            kept = finished.get(number)
            if kept is None:
                engine = engine or engine_factory()
                kept = ask(engine, chunk, shared, seed)
                finished.add(number, kept)
            predictions += kept
            _log.info("Asked %d of %d questions (%s)", len(predictions), len(questions), chunk[-1].benchmark)
            progress(number, predictions)
    finally:
        if engine is not None:
            engine.close()
    return predictions


def chunks_of(questions: Sequence[Question]) -> list[list[Question]]:
    """Consecutive questions of one mode, at most CHUNK_QUESTIONS together."""
    chunks = []
    for _, group in groupby(questions, key=lambda question: question.mode):
        same_mode = list(group)
        chunks += [same_mode[i : i + CHUNK_QUESTIONS] for i in range(0, len(same_mode), CHUNK_QUESTIONS)]
    return chunks


def ask(engine: RolloutEngine, chunk: Sequence[Question], shared: EvaluateSharedConfig, seed: int) -> list[Prediction]:
    """Ask a chunk of one mode in one go.

    Raises InputError if a question does not fit into max_input_tokens, or a prompt not into the model's window.
    """
    seeds = [derive_seed(seed, "evaluate", q.benchmark, q.mode, q.sample.id) for q in chunk]
    if chunk[0].mode == "agent":
        return _ask_agent(engine, chunk, shared, seeds)
    requests = [
        GenerationRequest(
            prompt_ids=full_context_prompt(
                question.sample, question.context(), engine.tokenizer, shared.max_input_tokens
            ),
            max_tokens=shared.max_output_tokens,
            temperature=shared.temperature,
            top_p=shared.top_p,
            seed=question_seed,
        )
        for question, question_seed in zip(chunk, seeds, strict=True)
    ]
    predictions = []
    for question, request, completions in zip(chunk, requests, engine.generate_all(requests), strict=True):
        (completion,) = completions
        text = engine.tokenizer.decode(completion.token_ids)
        predictions.append(_prediction(question, text, len(request.prompt_ids), len(completion.token_ids)))
    return predictions


def _ask_agent(
    engine: RolloutEngine, chunk: Sequence[Question], shared: EvaluateSharedConfig, seeds: Sequence[int]
) -> list[Prediction]:
    agent = MemoryAgent(
        engine,
        shared.agent.chunk_tokens,
        shared.agent.memory_tokens,
        shared.agent.turn_tokens,
        shared.agent.answer_tokens,
        temperature=shared.temperature,
        top_p=shared.top_p,
    )
    tasks = [
        AgentTask(core_question(q.sample), q.context(), answer_instruction(q.sample), question_seed)
        for q, question_seed in zip(chunk, seeds, strict=True)
    ]
    return [
        _prediction(question, result.text, result.prompt_tokens, result.response_tokens)
        for question, result in zip(chunk, agent.answer_all(tasks), strict=True)
    ]


def _prediction(question: Question, text: str, prompt_tokens: int, response_tokens: int) -> Prediction:
    return Prediction(
        benchmark=question.benchmark,
        mode=question.mode,
        sample_id=question.sample.id,
        task_type=question.sample.task_type.value,
        question=core_question(question.sample),
        gold=question.sample.answer,
        prediction=strip_reasoning(text),
        score=question.score(text),
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        evidence_position=question.evidence_position,
    )


def _digest(questions: Sequence[Question], shared: EvaluateSharedConfig, seed: int) -> str:
    """What the stored chunks answer: changes with the questions, their order, the settings and the chunk size."""
    digest = hashlib.sha256(f"{CHUNK_QUESTIONS} {seed} {shared.model_dump_json()}".encode())
    for question in questions:
        digest.update(f"\n{question.benchmark} {question.mode} {question.sample.model_dump_json()}".encode())
    return digest.hexdigest()
