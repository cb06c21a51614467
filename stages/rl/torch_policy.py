"""The model under training in plain torch, on one device.

Master weights, gradients and AdamW's moments are float32. With a bfloat16 compute type a second copy of the model does
forward and backward; each of its gradients is added into the float32 one as soon as it is complete, and it takes the new
weights after every step. Generation shares that copy, so weight sync costs nothing.

Departures from the usual trainer: only positions that predict a generated token pass the LM head, a prompt is computed
once per group, and a row whose every coefficient is zero is not propagated back (its gradient is exactly zero).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.tokens import ChatTokenizer
from stages.rl.attention import attending, attention_path, tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.layer_checkpointing import layers_checkpointed
from stages.rl.loss import policy_loss
from stages.rl.model_folder import open_model, write_model
from stages.rl.packing import PackedRow
from stages.rl.policy import LossWeights, OptimizerSettings, StepStats, TokenScores
from stages.rl.selfcheck import check_forward

HEAD_CHUNK_TOKENS = 1024  # [1024, V] float32 logits at a time: 600 MB for a vocabulary of 150K
_STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, in torch


class TorchPolicy:
    """Policy on one device: the GPU if there is one, else the CPU.

    folder: model folder. compute_dtype: "float32" or "bfloat16". temperature: of the trained log-probabilities.
    activation_checkpointing: keep one hidden state per layer and compute the rest again in the backward pass;
    offload_activations: keep it in the CPU's memory.
    Raises InputError for a folder that holds no model, or one that this trainer would compute wrongly.
    """

    def __init__(
        self,
        folder: Path,
        *,
        compute_dtype: str,
        temperature: float,
        learning_rate: float,
        optimizer: OptimizerSettings,
        activation_checkpointing: bool = False,
        offload_activations: bool = False,
        head_chunk_tokens: int = HEAD_CHUNK_TOKENS,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = ChatTokenizer(folder)
        self._temperature = temperature
        self._head_chunk_tokens = head_chunk_tokens
        self._checkpointing = (activation_checkpointing, offload_activations)
        self._path = attention_path(self.device, getattr(torch, compute_dtype))
        self._max_grad_norm = optimizer.max_grad_norm
        self._master: Any = open_model(folder).to(self.device).eval()  # eval: no dropout, here and in generation
        check_forward(self._master, folder)
        self.model: Any = self._master if compute_dtype == "float32" else _copy_as(self._master, torch.bfloat16)
        if self._path == "tree":
            check_forward(self.model, folder, "tree", exact=self._master)
        # named_parameters lists tied tensors once, in the same order for both models
        self._names = [name for name, _ in self._master.named_parameters()]
        self._masters: list[Tensor] = list(self._master.parameters())
        self._computes: list[Tensor] = list(self.model.parameters())
        self._head_master: Tensor = self._master.get_output_embeddings().weight
        for master in self._masters:
            master.grad = torch.zeros_like(master)
        if self.model is not self._master:
            self._master.requires_grad_(False)
            for compute, master in zip(self._computes, self._masters, strict=True):
                compute.register_post_accumulate_grad_hook(_move_gradient_into(master))
        self._head_VH: Tensor = self.model.get_output_embeddings().weight
        # On a CPU the head's sums are float32 products: its weight is converted once per step, not once per row.
        self._own_head = self.device.type == "cpu" and self.model is not self._master
        if self._own_head:
            self._head_VH = self._head_VH.detach().float().requires_grad_()
        self._optimizer = torch.optim.AdamW(
            self._masters,
            lr=learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    @property
    def trees_per_row(self) -> int | None:
        """One prompt per row on a CPU, where a dense mask over several trees costs more than it saves."""
        return 1 if self.device.type == "cpu" else None

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The float32 gradients that `accumulate` has filled, by name."""
        return {name: _grad(master) for name, master in zip(self._names, self._masters, strict=True)}

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the next step."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def logprobs_and_entropy(self, rows: Sequence[PackedRow]) -> list[TokenScores]:
        """Scores of each row's tokens at the training temperature, without gradient."""
        with torch.no_grad(), attending(self.model, self._path):
            return [TokenScores(*self._score(row, self._hidden(row), self._temperature)) for row in rows]

    def step(self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights) -> StepStats:
        """One optimizer step on the batch; `advantages` [B]. Not finite: nothing changes, `skipped` is set."""
        loss, scores = self.accumulate(rows, advantages, weights)
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, self._max_grad_norm))
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if not skipped:
            self._optimizer.step()
            self._refresh_compute()
        return StepStats(loss, norm, skipped, tuple(scores))

    def accumulate(
        self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights
    ) -> tuple[float, list[TokenScores]]:
        """Fill the gradients with those of the whole batch's loss, row by row; returns loss and scores."""
        for master in self._masters:
            _grad(master).zero_()
        total, scores = 0.0, []
        with attending(self.model, self._path), layers_checkpointed(self.model, *self._checkpointing):
            for index, row in enumerate(rows):
                loss, row_scores = self._accumulate_row(row, advantages, weights, raw=index == 0)
                total += loss
                scores.append(row_scores)
        if self._own_head and self._head_VH.grad is not None:
            _grad(self._head_master).add_(self._head_VH.grad)
            self._head_VH.grad = None
        return total, scores

    def _accumulate_row(
        self, row: PackedRow, advantages: Tensor, weights: LossWeights, raw: bool
    ) -> tuple[float, TokenScores]:
        advantages_N = advantages[row.rollout_index_N]
        weight_N = weights.weight_BT[row.rollout_index_N, row.token_index_N]
        needs_gradient = bool(((advantages_N != 0) & (weight_N != 0)).any())
        with torch.set_grad_enabled(needs_gradient):
            hidden_NH = self._hidden(row)
            logprobs_N, entropy_N = self._score(row, hidden_NH, self._temperature)
            # The loss is a sum over tokens, so each token may stand in a grid row of its own: [N, 1], no padding.
            output = policy_loss(
                logprobs_N[:, None],
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
        with torch.no_grad():
            raw_N = self._score(row, hidden_NH.detach(), 1.0)[0] if raw else None
        return float(output.loss.detach()), TokenScores(logprobs_N.detach(), entropy_N, raw_N)

    def _hidden(self, row: PackedRow) -> Tensor:
        """Hidden states [N, H] that predict the row's scored tokens."""
        output = self.model.base_model(**tree_inputs(row, self.device, self._path), use_cache=False)
        hidden_TH: Tensor = output.last_hidden_state[0]
        return hidden_TH[row.hidden_index_N.to(self.device)]

    def _score(self, row: PackedRow, hidden_NH: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        targets_N = row.target_N.to(self.device)
        return token_logprobs_and_entropy(hidden_NH, self._head_VH, targets_N, temperature, self._head_chunk_tokens)

    def _refresh_compute(self) -> None:
        if self.model is not self._master:
            with torch.no_grad():
                for compute, master in zip(self._computes, self._masters, strict=True):
                    compute.copy_(master)
                if self._own_head:
                    self._head_VH.copy_(self.model.get_output_embeddings().weight)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that engines load, in the compute type, by state-dict name; tied ones once."""
        yield from zip(self._names, (compute.detach() for compute in self._computes), strict=True)

    def save(self, folder: Path) -> None:
        """Write a model folder: float32 safetensors, config, tokenizer."""
        write_model(self._master, self.tokenizer, folder)

    def load(self, folder: Path) -> None:
        """Take the weights of a model folder; the optimizer's state is kept. InputError for another model."""
        self._take({name: p.detach() for name, p in open_model(folder).named_parameters()}, str(folder))

    def digest(self) -> str:
        """A hash of the master weights' bits: equal before and after training means that nothing was learned."""
        digest = hashlib.blake2b(digest_size=16)
        for master in self._masters:
            digest.update(master.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def state_tensors(self) -> dict[str, Tensor]:
        """Master weights, and AdamW's moments and step counts."""
        tensors = {}
        for name, master in zip(self._names, self._masters, strict=True):
            tensors[f"weight/{name}"] = master.detach()
            for key, value in self._optimizer.state[master].items():
                tensors[f"{key}/{name}"] = value
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state_tensors`. InputError if they belong to another model."""
        weights = {name.removeprefix("weight/"): t for name, t in tensors.items() if name.startswith("weight/")}
        self._take(weights, "the checkpoint")
        self._optimizer.state.clear()
        for name, master in zip(self._names, self._masters, strict=True):
            if f"step/{name}" in tensors:  # absent before the first update
                state = {key: tensors[f"{key}/{name}"].to(self.device, copy=True) for key in _STATE_KEYS}
                self._optimizer.state[master] = state

    def _take(self, tensors: Mapping[str, Tensor], source: str) -> None:
        mine = {name: tuple(master.shape) for name, master in zip(self._names, self._masters, strict=True)}
        theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if mine != theirs:
            odd = min(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
            raise InputError(
                f"the weights in {source} are of another model: {odd} is {theirs.get(odd)}, expected {mine.get(odd)}."
            )
        with torch.no_grad():
            for name, master in zip(self._names, self._masters, strict=True):
                master.copy_(tensors[name])
        self._refresh_compute()


def _copy_as(master: Any, dtype: torch.dtype) -> Any:
    """A copy of the model with parameters of another type; buffers (rotary frequencies) stay float32."""
    model = copy.deepcopy(master)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _move_gradient_into(master: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds a finished low-precision gradient to the float32 one and frees it."""

    def hook(parameter: Tensor) -> None:
        _grad(master).add_(_grad(parameter))
        parameter.grad = None

    return hook


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
