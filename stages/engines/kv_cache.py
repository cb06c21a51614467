"""A key/value cache for decoding many rows at once: allocated once, prompts aligned at their right end.

transformers' DynamicCache concatenates (copies everything) at every token, and its StaticCache always attends over the
full length. Here a row's prompt is written once, for all of its copies, and decoding writes one column per token:

    columns   0 .. prompt_columns-1       prompt_columns ..
    row 0     pad pad  p0  p1  p2  p3     a0 a1 ..
    row 1     pad pad  p0  p1  p2  p3     b0 b1 ..           second copy of the same prompt: prefilled once
    row 2      q0  q1  q2  q3  q4  q5     c0 c1 ..

Only full attention (no sliding windows, no state-space layers).
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layout:
    """What all layers of one cache share: its size, and where the next write goes."""

    def __init__(self, rows: int, prompt_columns: int, columns: int) -> None:
        self.rows = rows
        self.prompt_columns = prompt_columns
        self.columns = columns
        self.length = prompt_columns  # columns in use
        self.prefill_rows: slice | None = None  # rows that the prompt under way fills; None: decoding


class _Layer(CacheLayerMixin):
    """Keys and values of one model layer, each [rows, kv heads, columns, head size]."""

    def __init__(self, layout: _Layout) -> None:
        super().__init__()
        self._layout = layout

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        layout = self._layout
        _, heads, _, key_size = key_states.shape
        # Zeros, since masked columns still enter a product with 0.
        self.keys = key_states.new_zeros(layout.rows, heads, layout.columns, key_size)
        self.values = value_states.new_zeros(layout.rows, heads, layout.columns, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new states; return those that the queries attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        layout = self._layout
        if layout.prefill_rows is not None:
            start, end = layout.prompt_columns - key_states.shape[2], layout.prompt_columns
            self.keys[layout.prefill_rows, :, start:end] = key_states
            self.values[layout.prefill_rows, :, start:end] = value_states
            return key_states, value_states
        end = layout.length + 1
        self.keys[:, :, layout.length : end] = key_states
        self.values[:, :, layout.length : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return 0 if self._layout.prefill_rows is not None else self._layout.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self._layout.columns

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys.index_select(0, rows)
            self.values = self.values.index_select(0, rows)


class RowCache(Cache):
    """The cache of one batch of rows.

    Use: for each prompt `start_prefill(first row, copies)` and one forward of the prompt (batch 1); then
    `start_decoding()`; then per token one forward of one token per row, followed by `advance()`.
    """

    def __init__(self, num_layers: int, rows: int, prompt_columns: int, answer_columns: int) -> None:
        self.layout = _Layout(rows, prompt_columns, prompt_columns + answer_columns)
        self._row_layers = [_Layer(self.layout) for _ in range(num_layers)]
        super().__init__(layers=self._row_layers)

    def start_prefill(self, first_row: int, copies: int) -> None:
        """The next forward computes the prompt of rows first_row .. first_row + copies - 1."""
        self.layout.prefill_rows = slice(first_row, first_row + copies)

    def start_decoding(self) -> None:
        """The next forward holds one token per row."""
        self.layout.prefill_rows = None

    def advance(self) -> None:
        """A token was written in every row."""
        self.layout.length += 1

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all other rows."""
        for layer in self._row_layers:
            layer.keep(rows)
        self.layout.rows = len(rows)
