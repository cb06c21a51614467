"""Does the spread model compute what the model in the file computes? Asked once, after the weights are spread.

One small prefix-tree row is scored by the whole float32 model in process 0, on the CPU and with a dense mask, and again by
all processes together: weights in pieces, tokens in shards, in the compute type, with the attention of the device. A
wrong gather or shard shows as a difference far above rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stages.common.errors import InputError
from stages.rl.attention import AttentionPath, tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.packing import Branch, PackedRow, Tree, pack_trees
from stages.rl.tree_layout import MIN_TRUNK_TOKENS

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # relative L2; a card's float32 sums differ by more than a CPU's


def probe_row(vocabulary: int, path: AttentionPath) -> PackedRow:
    """A prompt with three answers of different lengths; long enough for every part of the device's attention."""
    prompt = tuple((7 * i + 3) % vocabulary for i in range(13 if path == "dense" else MIN_TRUNK_TOKENS + 37))
    answers = [tuple((11 * i + 5 * member + 1) % vocabulary for i in range(3 + member)) for member in range(3)]
    tree = Tree(prompt, tuple(Branch(answer, member, 0) for member, answer in enumerate(answers)))
    (row,) = pack_trees([tree], max_tokens=tree.num_tokens)
    return row


def whole_logprobs(model: Any, row: PackedRow, temperature: float) -> list[float]:
    """The row's log-probabilities by a whole float32 model on the CPU."""
    with torch.no_grad():
        hidden_TH = model.base_model(**tree_inputs(row, torch.device("cpu")), use_cache=False).last_hidden_state[0]
        head_VH = model.get_output_embeddings().weight
        logprobs_N, _ = token_logprobs_and_entropy(
            hidden_TH[row.hidden_index_N], head_VH, row.target_N, temperature, 64
        )
    values: list[float] = logprobs_N.tolist()
    return values


def check_spread(spread: Sequence[float], whole: Sequence[float], compute_dtype: str, folder: Path) -> None:
    """Raise InputError if the two differ by more than rounding."""
    expected = torch.tensor(whole, dtype=torch.float64)
    difference = float((torch.tensor(spread, dtype=torch.float64) - expected).norm() / expected.norm())
    if not difference <= TOLERANCE[compute_dtype]:
        raise InputError(
            f"the model in {folder}, spread over the processes, computes log-probabilities that are {difference:.3g} away "
            f"from its own (relative L2; {TOLERANCE[compute_dtype]:g} is allowed). Try another train.distributed.zero_stage "
            "or sequence_parallel 1, or the torch backend."
        )
