"""The model under training on DeepSpeed: one process per GPU on one or many machines, ZeRO 0 to 3, Ulysses.

Every process calls every method with the same arguments and gets the same results. The rows of a batch are dealt to
workers (row_plan.py); a worker is one process, or the `sequence_parallel` processes that share its rows (ulysses.py).

    our loss is a sum over the batch, DeepSpeed averages gradients over processes     -> the loss is multiplied by their number
    ZeRO-3 needs equally many passes on all processes                                 -> dummy rows of weight zero
    sequence parallelism                                                              -> unknown to DeepSpeed: each process has
                                                                                         a partial loss, gradients add up
    a loss that is not finite in a row without gradient                               -> carried into the last backward pass,
                                                                                         so that DeepSpeed itself skips the step

Departures from DeepSpeed's usual use: float32 masters are filled from float32 files; AdamW is torch's, on the CPU too;
checkpoints are tensors for stages/rl/checkpoint.py, not DeepSpeed's folders (they are pickled).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.common.config import DistributedConfig
from stages.common.tokens import ChatTokenizer
from stages.rl import lora
from stages.rl.attention import TREE, attention_path, tree_inputs
from stages.rl.distributed import current_world, ensure_process_group
from stages.rl.layer_checkpointing import layers_checkpointed
from stages.rl.loss import policy_loss
from stages.rl.packing import PackedRow
from stages.rl.policy import LossWeights, OptimizerSettings, StepStats, TokenScores
from stages.rl.row_plan import deal_rows, dummy_row, needs_gradient
from stages.rl.spread_check import check_spread, probe_row, whole_logprobs
from stages.rl.spread_model import SpreadModel
from stages.rl.ulysses import ULYSSES, check_heads, sequence_group, shard_inputs
from stages.rl.zero_model import RowScorer, empty_model, engine_settings, open_deepspeed
from stages.rl.zero_state import ZeroState

HEAD_CHUNK_TOKENS = 1024


class DeepSpeedPolicy:
    """Policy on all processes of torch.distributed's default group.

    folder: model folder; process 0 reads its weights. compute_dtype: "float32" or "bfloat16".
    temperature: of the trained log-probabilities.
    Raises InputError for a folder that holds no model or one that this trainer would compute wrongly, ConfigError for a
    number of processes or heads that sequence_parallel does not divide.
    """

    def __init__(
        self,
        folder: Path,
        distributed: DistributedConfig,
        *,
        compute_dtype: str,
        temperature: float,
        learning_rate: float,
        optimizer: OptimizerSettings,
        head_chunk_tokens: int = HEAD_CHUNK_TOKENS,
    ) -> None:
        deepspeed = open_deepspeed()
        ensure_process_group()
        self._world = current_world()
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.model: Any = None  # the weights are spread: an engine needs its own copy
        self.tokenizer = ChatTokenizer(folder)
        self._config = distributed
        self._temperature = temperature
        self._compute_dtype = compute_dtype
        self._sequence = sequence_group(self._world, distributed.sequence_parallel)
        self._path = attention_path(self.device, getattr(torch, compute_dtype))
        self._dummy = dummy_row()
        settings = engine_settings(distributed, compute_dtype, optimizer, on_gpu)
        self._module: Any = empty_model(folder, settings, self.device)
        check_heads(self._module.config, distributed.sequence_parallel)
        if self._sequence is not None or self._path == "tree":  # for good: layers are also computed again in backward
            self._module.config._attn_implementation = TREE if self._sequence is None else ULYSSES
        if distributed.lora.rank:
            lora.add_adapters(self._module, distributed.lora)
        # Names of the model without adapters; tied tensors once
        self._named = [(name, p) for name, p in self._module.named_parameters()]

        def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.AdamW(
                parameters,
                lr=learning_rate,
                betas=(optimizer.beta1, optimizer.beta2),
                eps=optimizer.epsilon,
                weight_decay=optimizer.weight_decay,
                fused=True,
            )

        self._engine: Any = deepspeed.initialize(
            model=RowScorer(self._module, head_chunk_tokens),
            model_parameters=[p for _, p in self._named if p.requires_grad],
            optimizer=make_optimizer,
            config=settings,
            dist_init_required=False,
        )[0]
        self._engine.eval()  # no dropout; gradients flow all the same
        self._state = ZeroState(self._engine, distributed.zero_stage)
        self._spread = SpreadModel(self._module, self._state, self._world, self.device)
        self.load(folder)

    @property
    def trees_per_row(self) -> int | None:
        """One prompt per row on a CPU, where a dense mask over several trees costs more than it saves."""
        return 1 if self.device.type == "cpu" else None

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The whole gradients that `accumulate` has left, by name; all processes must ask."""
        return {name: self._state.full_gradient(p) for name, p in self._named if p.requires_grad}

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the next step."""
        self._state.set_learning_rate(learning_rate)

    def logprobs_and_entropy(self, rows: Sequence[PackedRow]) -> list[TokenScores]:
        """Scores of each row's tokens at the training temperature, without gradient."""
        found: dict[int, tuple[Tensor, ...]] = {}
        with torch.no_grad():
            for entries in deal_rows(rows, range(len(rows)), self._workers).rounds:
                self._forward(rows, entries[self._worker], None, found)
        return self._everywhere(rows, found)

    def step(self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights) -> StepStats:
        """One optimizer step on the batch; `advantages` [B]. Not finite: nothing changes, `skipped` is set."""
        loss, scores = self.accumulate(rows, advantages, weights)
        norm, applied = self._apply()
        return StepStats(loss, norm, not applied, tuple(scores))

    def accumulate(
        self, rows: Sequence[PackedRow], advantages: Tensor, weights: LossWeights
    ) -> tuple[float, list[TokenScores]]:
        """Leave the gradients of the whole batch's loss with DeepSpeed, which adds them to those that it has; an update
        takes them. Returns loss and scores of all rows.
        """
        with_gradient = [i for i, row in enumerate(rows) if needs_gradient(row, advantages, weights.weight_BT)]
        without = [i for i in range(len(rows)) if i not in set(with_gradient)]
        found: dict[int, tuple[Tensor, ...]] = {}
        total = 0.0
        with torch.no_grad():
            for entries in deal_rows(rows, without, self._workers).rounds:
                total += float(self._forward(rows, entries[self._worker], (advantages, weights), found, 0 in entries))
        broken = self._world.sum(torch.tensor(float(not math.isfinite(total))), "rows without gradient") > 0
        rounds = deal_rows(rows, with_gradient, self._workers, at_least=1).rounds
        checkpointing = (self._config.activation_checkpointing, self._config.offload_activations)
        with layers_checkpointed(self._module, *checkpointing):
            for number, entries in enumerate(rounds):
                last = number == len(rounds) - 1
                self._engine.set_gradient_accumulation_boundary(last)
                loss = self._forward(rows, entries[self._worker], (advantages, weights), found, 0 in entries)
                total += float(loss.detach())
                self._engine.backward(loss * self._world.size * (math.nan if broken and last else 1.0))
        total = float(self._world.sum(torch.tensor(total, dtype=torch.float64), "loss"))
        return total, self._everywhere(rows, found)

    def _forward(
        self,
        rows: Sequence[PackedRow],
        index: int | None,
        coefficients: tuple[Tensor, LossWeights] | None,
        found: dict[int, tuple[Tensor, ...]],
        raw: bool = False,
    ) -> Tensor:
        """One pass over a row (None: the dummy). Puts its scores into `found`, returns this process's part of the loss.

        raw: also score at temperature 1; equal on all processes, since it is one more pass of the LM head.
        """
        row = self._dummy if index is None else rows[index]
        part = slice(0, len(row.target_N)) if self._sequence is None else self._sequence.share(len(row.target_N))
        if self._sequence is None:
            inputs = tree_inputs(row, self.device, self._path)
        else:
            inputs = shard_inputs(row, self.device, self._path, self._sequence)
        logprobs_N, entropy_N, raw_N = self._engine(
            inputs, row.hidden_index_N, row.target_N[part].to(self.device), self._temperature, raw, self._sequence
        )
        if index is not None:
            scores = [logprobs_N.detach(), entropy_N] + ([raw_N] if raw_N is not None else [])
            found[index] = tuple(score.float().cpu() for score in scores)
        if coefficients is None:
            return logprobs_N.new_zeros(())
        advantages, weights = coefficients
        rollout_N = row.rollout_index_N[part]
        output = policy_loss(
            logprobs_N[:, None],
            (advantages[rollout_N] if index is not None else advantages.new_zeros(len(rollout_N))).to(self.device),
            torch.ones(len(rollout_N), 1, dtype=torch.bool, device=self.device),
            weights.group_ids_B[rollout_N],
            weights.denominator,
            weights.weight_BT[rollout_N, row.token_index_N[part]][:, None].to(self.device),
            weights.tokens_per_group,
            weights.num_groups,
        )
        return output.loss

    def _everywhere(self, rows: Sequence[PackedRow], found: Mapping[int, tuple[Tensor, ...]]) -> list[TokenScores]:
        """All rows' scores on all processes, from what each has found: a sum, since nobody else has those tokens."""
        starts = torch.tensor([0, *(len(row.target_N) for row in rows)]).cumsum(0).tolist()
        all_3N = torch.zeros(3, starts[-1])
        for index, scores in found.items():
            length = len(rows[index].target_N)
            part = slice(0, length) if self._sequence is None else self._sequence.share(length)
            for kind, score in enumerate(scores):
                all_3N[kind, starts[index] + part.start : starts[index] + part.stop] = score
        self._world.sum(all_3N, "scores")
        has_raw = any(len(scores) > 2 for scores in found.values())
        has_raw = bool(self._world.sum(torch.tensor(float(has_raw)), "scores"))
        return [
            TokenScores(
                all_3N[0, starts[i] : starts[i + 1]],
                all_3N[1, starts[i] : starts[i + 1]],
                all_3N[2, starts[i] : starts[i + 1]] if i == 0 and has_raw else None,
            )
            for i in range(len(rows))
        ]

    def _apply(self) -> tuple[float, bool]:
        """Clip and step; (gradient norm, whether the weights were changed)."""
        self._world.meet("optimizer step")
        if self._config.zero_stage == 0:  # DeepSpeed does not look at float32 gradients here
            norm = float(torch.nn.utils.get_total_norm([p.grad for _, p in self._named if p.grad is not None]))
            if not math.isfinite(norm):
                self._engine.zero_grad()
                return norm, False
            self._engine.step()
            return norm, True
        self._engine.step()
        applied = not self._engine.optimizer.overflow
        return float(self._engine.get_global_grad_norm()) if applied else math.inf, applied

    @property
    def _workers(self) -> int:
        return self._world.size // self._config.sequence_parallel

    @property
    def _worker(self) -> int:
        return self._world.rank // self._config.sequence_parallel

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that engines load, in the compute type, by state-dict name; tied ones once, adapters merged."""
        return self._spread.named_tensors()

    def save(self, folder: Path) -> None:
        """Write a model folder: float32 safetensors, config, tokenizer. Process 0 writes, all take part."""
        self._spread.save(folder, self.tokenizer)

    def load(self, folder: Path) -> None:
        """Take the weights of a model folder; the optimizer's state is kept, adapters begin anew.

        Process 0 reads and checks them. InputError for another model, or if the spread model computes something else.
        """
        source = self._spread.load(folder)
        row = probe_row(self._module.config.vocab_size, self._path)
        whole = whole_logprobs(source, row, self._temperature) if source is not None else None
        whole = self._world.from_first(whole, "check of the spread model")
        (scores,) = self.logprobs_and_entropy([row])
        check_spread(scores.logprobs_N.tolist(), whole, self._compute_dtype, folder)

    def digest(self) -> str:
        """A hash of the master weights' bits, whatever the number of processes; TorchPolicy's if there are no adapters."""
        return self._spread.digest()

    def state_tensors(self) -> dict[str, Tensor]:
        """This process's part: master weights, and AdamW's moments and step counts."""
        return self._state.tensors(self._layout())

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state_tensors`. InputError if they belong to another model or another number of processes."""
        self._state.restore(tensors, self._layout())

    def _layout(self) -> Tensor:
        return torch.tensor([self._config.zero_stage, self._world.size, self._world.rank, self._config.lora.rank])
