"""Command-line options that `longfuse ask` and `longfuse serve` share: how a model is run, how it reads, where turns are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="DIR", help="Model folder, or a stage's data folder (default: outputs/rl/stage4/data)."
    ),
]
TraceMLflow = Annotated[bool, typer.Option("--trace-mlflow", help="Record every question's turns in MLflow's Traces.")]
TrackingURI = Annotated[
    str | None,
    typer.Option("--tracking-uri", metavar="URI", help="Where, with --trace-mlflow (default: as the pipeline's)."),
]
ChunkTokens = Annotated[
    int | None,
    typer.Option("--chunk-tokens", min=16, help="Document tokens read at a time (default: by the window)."),
]
MemoryTokens = Annotated[
    int | None, typer.Option("--memory-tokens", min=8, help="Cap on the memory (default: by the window).")
]
Window = Annotated[
    int | None, typer.Option("--window", min=256, help="Tokens that the model takes (default: its own).")
]
EngineKind = Annotated[str, typer.Option("--engine", help="transformers, vllm or remote.")]
Dtype = Annotated[str, typer.Option("--dtype", help="bfloat16 or float32.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")]
