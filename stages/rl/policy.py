"""What the training loop asks of the model under training, whatever runs it.

`TorchPolicy` (torch_policy.py) is plain torch on one device, `DeepSpeedPolicy` (deepspeed_policy.py) runs on many processes;
build_policy.py chooses. With several processes each calls the same methods with the same arguments, and gets the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.common.tokens import ChatTokenizer
from stages.rl.loss import Denominator
from stages.rl.packing import PackedRow


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with decoupled weight decay on every tensor (verl's default), and the clip on the global gradient norm."""

    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class LossWeights:
    """What weighs and divides the loss, for the whole batch of B rollouts (see policy_loss).

    weight_BT: numerator weights. group_ids_B: prompt of each rollout. tokens_per_group: denominators.
    """

    weight_BT: Tensor
    group_ids_B: Tensor
    tokens_per_group: Mapping[int, float]
    num_groups: int
    denominator: Denominator


@dataclass(frozen=True)
class TokenScores:
    """What one row's scored tokens got, [N] each.

    logprobs_N, entropy_N: at the training temperature. raw_logprobs_N: at temperature 1, if they were asked for.
    """

    logprobs_N: Tensor
    entropy_N: Tensor
    raw_logprobs_N: Tensor | None = None


@dataclass(frozen=True)
class StepStats:
    """One update. skipped: loss or gradient was not finite, so the weights were left alone.

    scores: one per row, from before the update; the first row's hold raw log-probabilities (mismatch metric).
    """

    loss: float
    grad_norm: float
    skipped: bool
    scores: tuple[TokenScores, ...]


class Policy(Protocol):
    """The model under training.

    model: its compute weights, if an engine in this process may share them; None: an engine needs a copy.
    tokenizer: the tokenizer that belongs to the model. device: of this process's computation.
    """

    model: Any
    tokenizer: ChatTokenizer
    device: torch.device

    @property
    def trees_per_row(self) -> int | None:
        """Prompts that one packed row should hold at most; None: as many as fit."""
        ...

    def logprobs_and_entropy(self, rows: Sequence[PackedRow]) -> list[TokenScores]:
        """Scores of each row's tokens at the training temperature, without gradient."""
        ...

    def step(self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights) -> StepStats:
        """One optimizer step on the batch; `advantages` [B]. Not finite: nothing changes, `skipped` is set."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the next step."""
        ...

    def digest(self) -> str:
        """A hash of the master weights' bits, whatever the number of processes."""
        ...

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that engines load, by state-dict name; tied ones once."""
        ...

    def save(self, folder: Path) -> None:
        """Write a model folder: float32 safetensors, config, tokenizer."""
        ...

    def load(self, folder: Path) -> None:
        """Take the weights of a model folder; the optimizer's state is kept."""
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state_tensors`. InputError if they belong to another model."""
        ...
