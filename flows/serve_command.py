"""`longfuse serve`: its flags. The work is in flows/serve.py, imported when it is needed."""

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


def serve(
    model: Model = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name for clients (default: its folder's).")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; one beyond this machine needs a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="Holds the key for clients (or LONGFUSE_API_KEY does)."),
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", min=1, help="Answers at a time; more requests get status 429.")
    ] = 8,
    max_request_mb: Annotated[
        int, typer.Option("--max-request-mb", min=1, max=4096, help="Largest request, 10^6 bytes.")
    ] = 64,
    max_answer_seconds: Annotated[
        float,
        typer.Option("--max-answer-seconds", min=0.1, help="An answer that takes longer is given up: status 504."),
    ] = 3600.0,
    max_answer_tokens: Annotated[
        int | None, typer.Option("--max-answer-tokens", min=1, help="Bound of max_tokens (default: half the window).")
    ] = None,
    window: Window = None,
    chunk_tokens: ChunkTokens = None,
    memory_tokens: MemoryTokens = None,
    split_question: SplitQuestion = "rules",
    answer_tokens: Annotated[
        int | None, typer.Option("--answer-tokens", min=1, help="max_tokens of requests that name none.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="Of requests that name none; 0 is greedy.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of requests that name none.")] = 17,
    grace_seconds: Annotated[
        int, typer.Option("--grace-seconds", min=0, help="For answers under way when the server is stopped.")
    ] = 10,
    trace_mlflow: TraceMLflow = False,
    tracking_uri: TrackingURI = None,
    engine: EngineKind = "transformers",
    dtype: Dtype = "bfloat16",
    threads: Threads = 2,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint; what is longer than the window is read by the memory agent."""
    from flows.serve import ServeRequest
    from flows.serve import serve as run

    raise typer.Exit(
        run(
            ServeRequest(
                model=model,
                name=name,
                host=host,
                port=port,
                api_key_file=api_key_file,
                max_concurrent=max_concurrent,
                max_request_mb=max_request_mb,
                max_answer_seconds=max_answer_seconds,
                max_answer_tokens=max_answer_tokens,
                window=window,
                chunk_tokens=chunk_tokens,
                memory_tokens=memory_tokens,
                split_question=split_by(split_question),
                answer_tokens=answer_tokens,
                temperature=temperature,
                seed=seed,
                grace_seconds=grace_seconds,
                trace_mlflow=trace_mlflow,
                tracking_uri=tracking_uri,
                engine=engine,
                dtype=dtype,
                threads=threads,
            )
        )
    )
