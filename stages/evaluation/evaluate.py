"""The evaluate stages: one model, asked the held-out questions, a needle test, dialogue recall, and any benchmark of the
catalogue that the plan names and whose data lie in data/evaluation/.

Writes predictions.jsonl (every answer with its score) and scores.json (means with 95 % intervals, what was skipped and
why). The first three are made from the corpus, so they are there in every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.common.chat import FailureReason
from stages.common.chat_access import open_chat
from stages.common.metrics import Emit
from stages.common.records import Sample, TaskType
from stages.common.storage import DocumentStore, open_model_pointer, read_records
from stages.common.tokens import ChatTokenizer
from stages.engines.build import build_engine
from stages.evaluation.asking import closing
from stages.evaluation.base import Benchmark, LoadRequest
from stages.evaluation.benchmarks.catalogue import by_name
from stages.evaluation.benchmarks.dialogue_recall import dialogue_questions
from stages.evaluation.benchmarks.heldout import heldout_questions
from stages.evaluation.benchmarks.needle import needle_questions
from stages.evaluation.config import AskSettings, EvaluateStage
from stages.evaluation.finished import Answer
from stages.evaluation.planning import Planned, plan
from stages.evaluation.recording import Recorder
from stages.evaluation.selection import Selection, benchmark_named, select
from stages.evaluation.session import answers_file, evaluate_planned, write_evaluation

_QUESTION_TOKENS = 192  # kept free for chat template, question and form of the answer
_MIN_CONTEXT_TOKENS = 64
_PROGRESS_QUESTIONS = 16
CONCURRENT_QUESTIONS = 256  # under way on a server: enough to keep its batch full


def run(
    config: EvaluateStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Ask one model; `out_dir` is `<model's name>/data`.

    Raises InputError for a damaged input, a model that cannot be opened, or lengths that its window cannot hold.
    """
    model_dir = open_model_pointer(inputs["model"])
    documents = DocumentStore([inputs["documents"]])
    samples = read_records(inputs["heldout"], Sample)
    tokenizer = ChatTokenizer(model_dir)
    planned = build_questions(config, samples, documents, tokenizer)
    chosen = _benchmarks(config, inputs["benchmarks"], documents, tokenizer)
    planned += chosen.planned
    settings = ask_settings(config)
    recorder = Recorder(planned, emit)
    progress = _Progress(len(planned), emit, recorder)
    evaluation = evaluate_planned(
        closing(lambda: build_engine(model_dir, config.train)),
        planned,
        settings,
        answers_file(state_dir, "", settings),
        progress.note,
        concurrent=0 if config.train.engine.kind == "transformers" else CONCURRENT_QUESTIONS,
        judge=open_chat(config.judge, state_dir),
        on_read=recorder.read,
    )
    recorder.judged(evaluation.predictions)
    evaluation = evaluation.with_gaps(chosen.skipped, chosen.broken)
    write_evaluation(out_dir, out_dir.parent.name, evaluation)
    emit(0, {f"score/{row['benchmark']}/{row['mode']}": row["mean"] for row in evaluation.rows if row["n"]})
    return {
        "questions": len(planned) - evaluation.unanswered,
        "answers": len(evaluation.predictions),
        "prompt_tokens": sum(prediction.prompt_tokens for prediction in evaluation.predictions),
        "response_tokens": sum(prediction.response_tokens for prediction in evaluation.predictions),
        "benchmarks_skipped": len(chosen.skipped),
        "broken_rows": sum(len(rows) for rows in chosen.broken.values()),
    }


def ask_settings(config: EvaluateStage) -> AskSettings:
    """What decides an answer, of all the parameters of the stage."""
    shared = config.shared
    return AskSettings(
        max_input_tokens=shared.max_input_tokens,
        max_output_tokens=shared.max_output_tokens,
        reasoning_tokens=shared.reasoning_tokens,
        temperature=shared.temperature,
        top_p=shared.top_p,
        samples=config.plan.samples,
        seed=config.seed,
        agent=shared.agent,
    )


def build_questions(
    config: EvaluateStage, samples: Sequence[Sample], documents: DocumentStore, tokenizer: ChatTokenizer
) -> list[Planned]:
    """The project's own questions, full context first, in an order that depends on nothing else."""
    shared, own, seed = config.shared, config.plan, config.seed

    def count(text: str) -> int:
        return len(tokenizer.encode_text(text))

    full = heldout_questions(samples, documents, own.questions_per_task)
    for tokens in shared.needle_tokens:
        room = _context_room(tokens, shared.max_input_tokens)
        full += needle_questions(documents, tokens, room, own.needle_questions, seed, count)
    for tokens in shared.dialogue_tokens:
        room = _context_room(tokens, shared.max_input_tokens)
        full += dialogue_questions(
            documents, tokens, room, shared.max_output_tokens, own.dialogue_questions, seed, count
        )
    agent = []
    in_agent_mode = own.agent_questions_per_task
    if in_agent_mode:
        agent = heldout_questions(samples, documents, {task.value: in_agent_mode for task in TaskType})
        for tokens in sorted(shared.needle_tokens)[-1:]:  # the longest alone: the agent reads it in turns
            agent += needle_questions(documents, tokens, tokens, in_agent_mode, seed, count)
    return [plan(question, "full_context") for question in full] + [
        plan(question, "memory_agent") for question in agent
    ]


def _benchmarks(config: EvaluateStage, data_dir: Path, documents: DocumentStore, tokenizer: ChatTokenizer) -> Selection:
    """The questions of the plan's benchmarks. ConfigError for a name that there is not."""
    catalogue = by_name()
    wanted = [benchmark_named(name, catalogue) for name in config.plan.benchmarks]

    def request(benchmark: Benchmark) -> LoadRequest:
        return LoadRequest(
            data_dir=data_dir,
            use_hub=False,  # a stage reads its declared inputs and nothing else
            limit=config.plan.benchmarks[benchmark.name],
            lengths=tuple(config.shared.benchmark_tokens),
            seed=config.seed,
            count_tokens=lambda text: len(tokenizer.encode_text(text)),
            documents=documents,
        )

    return select(wanted, config.plan.modes, request)


class _Progress:
    """Tells how many questions are answered, every few of them, and the recorder of each."""

    def __init__(self, total: int, emit: Emit, recorder: Recorder) -> None:
        self._total, self._emit, self._recorder = total, emit, recorder
        self._questions = self._tokens = 0

    def note(self, planned: Planned, result: list[Answer] | FailureReason) -> None:
        self._questions += 1
        if isinstance(result, list):
            self._recorder.kept(planned, result)
            self._tokens += sum(answer.prompt_tokens + answer.response_tokens for answer in result)
        if self._questions % _PROGRESS_QUESTIONS == 0 or self._questions == self._total:
            values = {"progress/prompts": float(self._questions), "progress/tokens": float(self._tokens)}
            self._emit(self._questions, values)


def _context_room(tokens: int, max_input_tokens: int) -> int:
    """Length of a made context: as asked, unless its question would then push it over the limit and cost its middle."""
    room = min(tokens, max_input_tokens - _QUESTION_TOKENS)
    return room if room >= _MIN_CONTEXT_TOKENS else tokens
