"""Texts with hidden facts as samples: what benchmarks/memory_warmup.py and memory_training.py train the agent on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from benchmarks.memory_parts import open_corpus
from stages.common.generators.ruler import needle_sentence
from stages.common.records import Category, Document, Evidence, Sample, Span, TaskType
from stages.common.seeds import derive_seed, rng
from stages.common.tokens import ChatTokenizer
from stages.evaluation.base import LoadRequest
from stages.evaluation.benchmarks.ultra_long import Make, UltraTask


def hidden_samples(
    folder: Path, model: Path, makers: Sequence[Make], lengths: tuple[int, int], count: int, seed: int, name: str
) -> tuple[list[Document], list[Sample]]:
    """`count` documents of between the two lengths (tokens of the model), a question about each, the makers in turn.

    The evidence of a question is the sentences that its answer follows from. `folder` takes the texts while they are made.
    """
    tokenizer = ChatTokenizer(model)
    request = LoadRequest(
        data_dir=None,
        use_hub=False,
        limit=count,
        lengths=(),
        seed=seed,
        count_tokens=lru_cache(maxsize=16_384)(lambda text: len(tokenizer.encode_text(text))),
        documents=open_corpus(folder / "corpus"),
    )
    documents, samples = [], []
    for number in range(count):
        chance = rng(seed, f"memory {name}", number)
        task = makers[number % len(makers)](request, chance.randint(*lengths), number, chance)
        path = folder / "text.txt"
        task.write(path)
        text = path.read_text(encoding="utf-8")
        document_id = f"{Category.GENERAL.value}/{name}-{number}"
        tokens = len(tokenizer.encode_text(text))
        documents.append(
            Document(
                id=document_id,
                category=Category.GENERAL,
                title=document_id,
                text=text,
                source=document_id,
                format="text",
                tokens=tokens,
            )
        )
        spans = [(text.index(fact), text.index(fact) + len(fact)) for fact in _facts_of(task)]
        samples.append(
            Sample(
                id=f"{name}-{number}",
                task_type=task.task_type,
                question=task.question,
                answer=task.answer,
                answer_kind=task.answer_kind,
                evidence=[
                    Evidence(document_id=document_id, start=start, end=end, quote=text[start:end])
                    for start, end in spans
                ],
                proof=task.proof,
                generator="benchmark",
                seed=derive_seed(seed, number),
                context=[Span(document_id=document_id, start=0, end=len(text))],
                context_tokens=tokens,
            )
        )
    return documents, samples


def _facts_of(task: UltraTask) -> list[str]:
    if task.task_type is TaskType.MULTI_HOP:
        facts = task.proof["facts"]
        assert isinstance(facts, list)
        return facts
    return [needle_sentence(str(task.proof["key"]), task.answer)]
