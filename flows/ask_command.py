"""`longfuse ask`: its flags. The work is in flows/ask.py, imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    documents: Annotated[
        list[Path], typer.Option("--document", metavar="FILE", help="A document of any length; repeatable.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="DIR", help="Model folder, or a stage's data folder (default: outputs/rl/stage4/data)."
        ),
    ] = None,
    full_context: Annotated[
        bool, typer.Option("--full-context", help="One pass over everything, if it fits into the model's window.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Also show the memory's history.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    trace_mlflow: Annotated[
        bool, typer.Option("--trace-mlflow", help="Record the question's turns in MLflow's Traces.")
    ] = False,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", metavar="URI", help="Where, with --trace-mlflow (default: as the pipeline's)."),
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", min=256, help="Tokens that the model takes (default: its own).")
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option("--chunk-tokens", min=16, help="Document tokens read at a time (default: by the window)."),
    ] = None,
    memory_tokens: Annotated[
        int | None, typer.Option("--memory-tokens", min=8, help="Cap on the memory (default: by the window).")
    ] = None,
    answer_tokens: Annotated[int | None, typer.Option("--answer-tokens", min=1, help="Cap on the answer.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal answers.")] = 17,
    engine: Annotated[str, typer.Option("--engine", help="transformers, vllm or remote.")] = "transformers",
    dtype: Annotated[str, typer.Option("--dtype", help="bfloat16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")] = 2,
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
                answer_tokens=answer_tokens,
                temperature=temperature,
                seed=seed,
                engine=engine,
                dtype=dtype,
                threads=threads,
            )
        )
    )
