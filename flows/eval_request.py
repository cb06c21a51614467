"""The flags of `longfuse eval` as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """The flags of `longfuse eval`; names as there."""

    benchmarks: tuple[str, ...]
    model: Path | None
    modes: tuple[str, ...]
    samples: int
    limit: int | None
    data: Path | None
    hub: bool
    corpus: Path | None
    out: Path | None
    endpoint: str | None
    endpoint_model: str | None
    endpoint_key_env: str | None
    budget_tokens: int | None
    window: int | None
    judge_endpoint: str | None
    judge_model: str | None
    judge_key_env: str | None
    max_input_tokens: int
    max_output_tokens: int
    reasoning_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    lengths: tuple[int, ...]
    chunk_tokens: int | None
    memory_tokens: int | None
    engine: str
    dtype: str
    threads: int
    tokenizer: Path | None
