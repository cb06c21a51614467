"""Command-line options that `longfuse ask` and `longfuse serve` share: how a model is run, how it reads, where turns are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from stages.common.errors import ConfigError
from stages.memory.query import SplitBy

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
SplitQuestion = Annotated[
    str,
    typer.Option(
        "--split-question",
        help="How formatting instructions are taken out of a question before a document is read: rules, model (the loaded one is asked first) or off.",
    ),
]
Window = Annotated[
    int | None, typer.Option("--window", min=256, help="Tokens that the model takes (default: its own).")
]
EngineKind = Annotated[str, typer.Option("--engine", help="transformers, vllm or remote.")]
Dtype = Annotated[str, typer.Option("--dtype", help="bfloat16 or float32.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")]


def split_by(value: str) -> SplitBy:
    """The value of --split-question. ConfigError for another one."""
    if value not in get_args(SplitBy):
        raise ConfigError(f"--split-question {value}: rules, model or off.")
    return cast("SplitBy", value)
