"""A small corpus, held-out samples and a plan, for the tests of this folder."""

from stages.common.config import NO_ENDPOINT, TrainConfig
from stages.common.records import AnswerKind, Document, Evidence, Sample, Span, TaskType
from stages.evaluation.config import EvaluatePlan, EvaluateSharedConfig, EvaluateStage
from stages.memory.config import MemoryAgentConfig
from tests.train_settings import TRAIN

CAPITALS = "The capital of Norway is Oslo. It lies at a fjord. The capital of Peru is Lima. It lies at the sea. " * 8
CHAT = "# Session\n\n" + "\n".join(
    f"{'ann' if i % 2 else 'bob'}: this is {word} turn number {word}"
    for i, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    )
)
SEED = 17


def document(category, name, text):
    return Document(
        id=f"{category}/{name}", category=category, title=name, text=text, source=f"{category}/{name}.md",
        format="markdown", tokens=len(text),
    )  # fmt: skip


def sample(number, task=TaskType.MULTI_HOP, kind=AnswerKind.TEXT, answer="Oslo", **changes):
    values = {
        "id": f"{task.value}-{number}", "task_type": task, "question": f"Question {number}: capital of Norway?",
        "answer": answer, "answer_kind": kind, "proof": {"kind": "quote"}, "generator": "test", "seed": 1,
        "evidence": [Evidence(document_id="general/capitals", start=25, end=29, quote="Oslo")],
        "context": [Span(document_id="general/capitals", start=0, end=100)], "context_tokens": 100,
    }  # fmt: skip
    return Sample(**{**values, **changes})


def stage_config(**changes):
    shared = {
        "max_input_tokens": 1200, "max_output_tokens": 40, "reasoning_tokens": 0, "temperature": 0.0, "top_p": 1.0,
        "needle_tokens": [200, 400], "dialogue_tokens": [300], "benchmark_tokens": [300],
        "agent": MemoryAgentConfig(chunk_tokens=300, memory_tokens=40, turn_tokens=60, answer_tokens=30, prompt_order="memory_first", split_question="rules"),
    }  # fmt: skip
    plan = {
        "questions_per_task": {"multi_hop": 3, "numerical": 1, "multiple_choice": 0},
        "needle_questions": 2, "dialogue_questions": 1, "agent_questions_per_task": 1,
        "benchmarks": {}, "modes": ["full_context"], "samples": 1,
    }  # fmt: skip
    for section in (shared, plan):
        section.update({key: value for key, value in changes.items() if key in section})
    return EvaluateStage(
        shared=EvaluateSharedConfig(**shared),
        plan=EvaluatePlan(**plan),
        judge=NO_ENDPOINT,
        train=TrainConfig(**TRAIN),
        seed=SEED,
    )


SAMPLES = [
    sample(1),
    sample(2, TaskType.NUMERICAL, AnswerKind.NUMBER, "42"),
    sample(3),
    sample(4, TaskType.MULTIPLE_CHOICE, AnswerKind.LETTER, "B", choices=["Lima", "Oslo", "Rome", "Bern"]),
    sample(5, answer="Lima"),
    sample(6),
]
