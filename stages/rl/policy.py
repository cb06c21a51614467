"""The model under training: log-probabilities and one optimizer step over packed rows, behind one interface.

`TorchPolicy` is plain torch on one device. Master weights, gradients and AdamW's moments are float32. With a bfloat16
compute type a second copy of the model does forward and backward; its gradients are added into the float32 ones as they
appear, and it takes the new weights after each step. Generation shares that copy, so weight sync costs nothing here.
(Later: DeepSpeed behind the same interface.)

Departure from the usual trainer: only the positions that predict a generated token pass the LM head, a prompt is computed
once per group, and a row whose every coefficient is zero is not propagated back.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.tokens import ChatTokenizer
from stages.rl.attention import tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.loss import Denominator, policy_loss
from stages.rl.model_folder import open_model, write_model
from stages.rl.packing import PackedRow

HEAD_CHUNK_TOKENS = 1024  # [1024, V] float32 logits at a time: 600 MB for a vocabulary of 150K


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with decoupled weight decay on every tensor, as verl's default."""

    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class LossWeights:
    """What divides and weighs the loss, for the whole batch (see policy_loss).

    weight_BT: numerator weights. group_ids_B: prompt of each rollout. tokens_per_group: denominators.
    """

    weight_BT: Tensor
    group_ids_B: Tensor
    tokens_per_group: Mapping[int, float]
    num_groups: int
    denominator: Denominator


@dataclass(frozen=True)
class TokenScores:
    """What one row's scored tokens got, [N] each: at the training temperature, and at temperature 1 if asked for."""

    logprobs_N: Tensor
    entropy_N: Tensor
    raw_logprobs_N: Tensor | None = None


@dataclass(frozen=True)
class StepStats:
    """One update. skipped: loss or gradient was not finite, so the weights were left alone.

    scores: one per row, from before the update; the first row has raw log-probabilities (for the mismatch metric).
    """

    loss: float
    grad_norm: float
    skipped: bool
    scores: tuple[TokenScores, ...]


class Policy(Protocol):
    """What the training loop needs of a model."""

    def logprobs_and_entropy(self, rows: Sequence[PackedRow]) -> list[TokenScores]:
        """Scores of each row's tokens at the training temperature, without gradient."""
        ...

    def step(self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights) -> StepStats:
        """One optimizer step on the batch; `advantages` [B]."""
        ...

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that engines load, by state-dict name; tied ones once."""
        ...

    def save(self, folder: Path) -> None:
        """Write a model folder with float32 weights."""
        ...

    def load(self, folder: Path) -> None:
        """Take the weights of a model folder."""
        ...


class TorchPolicy:
    """Policy on one device.

    folder: model folder. compute_dtype: float32 or bfloat16. temperature: of the trained log-probabilities.
    learning_rate: changed by `set_learning_rate`. Raises InputError for a folder that holds no model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        compute_dtype: str,
        temperature: float,
        learning_rate: float,
        optimizer: OptimizerSettings,
        head_chunk_tokens: int = HEAD_CHUNK_TOKENS,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = ChatTokenizer(folder)
        self._temperature = temperature
        self._head_chunk_tokens = head_chunk_tokens
        self._settings = optimizer
        self._master: Any = open_model(folder).to(self.device).eval()  # eval: no dropout, here and in generation
        self.model: Any = self._master if compute_dtype == "float32" else _copy_as(self._master, torch.bfloat16)
        # named_parameters lists tied tensors once; both models list them in the same order
        self._names = [name for name, _ in self._master.named_parameters()]
        self._masters: list[Tensor] = list(self._master.parameters())
        self._computes: list[Tensor] = list(self.model.parameters())
        for master in self._masters:
            master.grad = torch.zeros_like(master)
        if self.model is not self._master:
            self._master.requires_grad_(False)
            for compute, master in zip(self._computes, self._masters, strict=True):
                compute.register_post_accumulate_grad_hook(_add_into(master))
        self._optimizer = torch.optim.AdamW(
            self._masters,
            lr=learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the next step."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def logprobs_and_entropy(self, rows: Sequence[PackedRow]) -> list[TokenScores]:
        """Scores of each row's tokens at the training temperature, without gradient."""
        with torch.no_grad():
            return [self._score(row, self._hidden(row)) for row in rows]

    def step(self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights) -> StepStats:
        """One optimizer step on the batch; `advantages` [B]. Not finite: nothing changes and `skipped` is set."""
        for master in self._masters:
            assert master.grad is not None
            master.grad.zero_()
        total, scores = 0.0, []
        for index, row in enumerate(rows):
            loss, row_scores = self._accumulate(row, advantages, weights, raw=index == 0)
            total += loss
            scores.append(row_scores)
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, self._settings.max_grad_norm))
        skipped = not (math.isfinite(total) and math.isfinite(norm))
        if not skipped:
            self._optimizer.step()
            self._refresh_compute()
        return StepStats(total, norm, skipped, tuple(scores))

    def _accumulate(
        self, row: PackedRow, advantages: Tensor, weights: LossWeights, raw: bool
    ) -> tuple[float, TokenScores]:
        """Add one row's gradient. Its tokens form a [1, N] grid per rollout: only sums matter to the loss."""
        advantages_N = advantages[row.rollout_index_N].to(torch.float64)
        weight_N = weights.weight_BT[row.rollout_index_N, row.token_index_N]
        needs_gradient = bool(((advantages_N != 0) & (weight_N != 0)).any())
        with torch.set_grad_enabled(needs_gradient):
            hidden_NH = self._hidden(row)
            scores = self._score(row, hidden_NH)
            # Each token is its own row of one token, so that no grid as wide as the longest answer is needed.
            output = policy_loss(
                scores.logprobs_N[:, None],
                advantages_N.to(self.device),
                torch.ones(len(advantages_N), 1, dtype=torch.bool, device=self.device),
                weights.group_ids_B[row.rollout_index_N],
                weights.denominator,
                weight_N[:, None].to(self.device),
                weights.tokens_per_group,
                weights.num_groups,
            )
            if needs_gradient:
                output.loss.backward()
        raw_N = self._raw_logprobs(row, hidden_NH.detach()) if raw else None
        return float(output.loss.detach()), TokenScores(scores.logprobs_N.detach(), scores.entropy_N, raw_N)

    def _hidden(self, row: PackedRow) -> Tensor:
        """Hidden states [N, H] that predict the row's scored tokens."""
        output = self.model.base_model(**tree_inputs(row, self.device), use_cache=False)
        hidden_TH: Tensor = output.last_hidden_state[0]
        return hidden_TH[row.hidden_index_N.to(self.device)]

    def _score(self, row: PackedRow, hidden_NH: Tensor) -> TokenScores:
        logprobs_N, entropy_N = token_logprobs_and_entropy(
            hidden_NH, self._lm_head(), row.target_N.to(self.device), self._temperature, self._head_chunk_tokens
        )
        return TokenScores(logprobs_N, entropy_N)

    def _raw_logprobs(self, row: PackedRow, hidden_NH: Tensor) -> Tensor:
        with torch.no_grad():
            targets_N = row.target_N.to(self.device)
            return token_logprobs_and_entropy(hidden_NH, self._lm_head(), targets_N, 1.0, self._head_chunk_tokens)[0]

    def _lm_head(self) -> Tensor:
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def _refresh_compute(self) -> None:
        if self.model is not self._master:
            with torch.no_grad():
                for compute, master in zip(self._computes, self._masters, strict=True):
                    compute.copy_(master)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that engines load, in the compute type, by state-dict name; tied ones once."""
        yield from zip(self._names, (compute.detach() for compute in self._computes), strict=True)

    def save(self, folder: Path) -> None:
        """Write a model folder: float32 safetensors, config, tokenizer."""
        write_model(self._master, self.tokenizer, folder)

    def load(self, folder: Path) -> None:
        """Take the weights of a model folder; the optimizer's state is kept."""
        other = dict(open_model(folder).named_parameters())
        self._take({name: tensor.detach() for name, tensor in other.items()}, str(folder))

    def digest(self) -> str:
        """A hash of the master weights' bits: equal before and after training means that nothing was learned."""
        digest = hashlib.blake2b(digest_size=16)
        for master in self._masters:
            digest.update(master.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold: master weights and AdamW's moments and step counts, by name."""
        tensors = {}
        for name, master in zip(self._names, self._masters, strict=True):
            tensors[f"weight/{name}"] = master.detach()
            for key, value in self._optimizer.state[master].items():
                tensors[f"{key}/{name}"] = value
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state_tensors`. InputError if they belong to another model."""
        self._take({n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")}, "checkpoint")
        for name, master in zip(self._names, self._masters, strict=True):
            moments = {
                key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors
            }
            if moments:
                self._optimizer.state[master] = {
                    key: value.to(self.device if key != "step" or self.device.type == "cuda" else "cpu").clone()
                    for key, value in moments.items()
                }

    def _take(self, tensors: Mapping[str, Tensor], source: str) -> None:
        if set(tensors) != set(self._names):
            odd = sorted(set(tensors) ^ set(self._names))[0]
            raise InputError(f"the weights in {source} are of another model: {odd} is on one side only.")
        with torch.no_grad():
            for name, master in zip(self._names, self._masters, strict=True):
                if tensors[name].shape != master.shape:
                    raise InputError(f"the weights in {source} are of another model: {name} has another shape.")
                master.copy_(tensors[name])
        self._refresh_compute()


def _copy_as(master: Any, dtype: torch.dtype) -> Any:
    """A copy of the model with parameters of another type; buffers (rotary frequencies) stay float32."""
    model = copy.deepcopy(master)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _add_into(master: Tensor) -> Any:
    """A hook that moves a finished low-precision gradient into the float32 one."""

    def hook(parameter: Tensor) -> None:
        assert master.grad is not None
        assert parameter.grad is not None
        master.grad.add_(parameter.grad)
        parameter.grad = None

    return hook
