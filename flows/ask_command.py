"""`longfuse ask`: its flags. The work is in flows/ask.py, imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.model_options import (
    ChunkTokens,
    Dtype,
    EngineKind,
    MemoryTokens,
    Model,
    SplitQuestion,
    Threads,
    TraceMLflow,
    TrackingURI,
    Window,
    split_by,
)


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    documents: Annotated[
        list[Path], typer.Option("--document", metavar="FILE", help="A document of any length; repeatable.")
    ],
    model: Model = None,
    full_context: Annotated[
        bool, typer.Option("--full-context", help="One pass over everything, if it fits into the model's window.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Also show the memory's history.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    trace_mlflow: TraceMLflow = False,
    tracking_uri: TrackingURI = None,
    window: Window = None,
    chunk_tokens: ChunkTokens = None,
    memory_tokens: MemoryTokens = None,
    split_question: SplitQuestion = "rules",
    answer_tokens: Annotated[int | None, typer.Option("--answer-tokens", min=1, help="Cap on the answer.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal answers.")] = 17,
    engine: EngineKind = "transformers",
    dtype: Dtype = "bfloat16",
    threads: Threads = 2,
) -> None:
    """Ask documents of any length a question: the model reads them section by section with a memory."""
    from flows.ask import AskRequest
    from flows.ask import ask as answer

    raise typer.Exit(
        answer(
            AskRequest(
                question=question,
                documents=tuple(documents),
                model=model,
                full_context=full_context,
                trace=trace,
                as_json=as_json,
                trace_mlflow=trace_mlflow,
                tracking_uri=tracking_uri,
                window=window,
                chunk_tokens=chunk_tokens,
                memory_tokens=memory_tokens,
                split_question=split_by(split_question),
                answer_tokens=answer_tokens,
                temperature=temperature,
                seed=seed,
                engine=engine,
                dtype=dtype,
                threads=threads,
            )
        )
    )
