"""The transformers engine of `longfuse serve`: the same answers, with a look at every token (see flows/serve_engine.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flows.serve_engine import Watch
from stages.engines.kv_cache import RowCache
from stages.engines.requests import Row
from stages.engines.transformers_engine import TransformersEngine


class WatchedTransformersEngine(TransformersEngine):
    """Shows tokens while they are generated and leaves rows that nobody waits for.

    watches: of requests under way, by id().
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.watches: dict[int, Watch] = {}
        super().__init__(*arguments, **options)

    def _decode(self, active: Sequence[Row], cache: RowCache, prompt_columns: int) -> torch.Tensor:
        """The next token's logits [B, V], after a look at the last one of each row."""
        for row in active:
            watch = self.watches.get(id(row.request))
            if watch is None or row.finish_reason is not None:
                continue
            if watch.on_tokens is not None and not watch.over:
                watch.on_tokens(row.token_ids)
            if watch.over:
                row.finish_reason = "stop"
        return super()._decode(active, cache, prompt_columns)
