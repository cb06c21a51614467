"""`longfuse merge`: its flags. The work is in flows/merging.py, imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    base: Annotated[Path, typer.Option("--base", metavar="DIR", help="The model before the experts' training.")],
    experts: Annotated[
        list[Path], typer.Option("--expert", metavar="DIR", help="A model trained from it; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    method: Annotated[str, typer.Option("--method", help="sce, linear or task_arithmetic.")] = "sce",
    select_topk: Annotated[float, typer.Option("--select-topk", help="sce: fraction of elements kept.")] = 1.0,
    weighting: Annotated[
        str, typer.Option("--weighting", help="sce: scale_free, or reference (as mergekit).")
    ] = "scale_free",
    weights: Annotated[
        list[float] | None, typer.Option("--weight", help="linear, task_arithmetic: one per expert, in their order.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto (the widest of the inputs), base, float32, bfloat16 or float16.")
    ] = "auto",
    shard_gb: Annotated[float, typer.Option("--shard-gb", help="Largest file, 10^9 bytes.")] = 5.0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Per-tensor report (default: OUT/merge.json).")
    ] = None,
) -> None:
    """Merge experts of one base model; streams any size in under 2 GB of memory. Killed, it goes on when run again."""
    from flows.merging import merge_models

    merge_models(
        base, experts, out, method=method, select_topk=select_topk, weighting=weighting, weights=weights or (),
        dtype=dtype, shard_gb=shard_gb, report=report, say=lambda text: print(text, flush=True),
    )  # fmt: skip
