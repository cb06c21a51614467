"""Generation with transformers' forward pass and our own loop: the engine for CPUs and single small GPUs.

Differs from `model.generate`: the prompt of a group is computed once for its n answers; prompts of different requests
are computed without padding and decoded together; every row has its own random generator, so an answer depends on
(weights, request) and, through rounding alone, on the batch; log-probabilities are those of temperature 1.

A request with n > 1 has its batch for itself (unless `batch_groups`), so its completions are the same bits whatever
else is asked: an RL step can be resumed exactly. Requests with n = 1 share batches, sorted by length; the batches
depend on the list of requests only.

A batch runs to its end; requests that come meanwhile form the next one (no continuous batching). transformers' own
(`generate_batch`) has one seed for all that it generates, so a sample could not be repeated by its own; and a row that
joined a running batch would change the shapes, hence the last bits, of the rows in it. Where throughput counts, on GPUs,
vllm_engine.py admits requests at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from stages.common.errors import InputError
from stages.common.rollouts import Completion, GenerationRequest
from stages.common.tokens import ChatTokenizer
from stages.engines.kv_cache import RowCache
from stages.engines.requests import RequestQueue, Row, check_request, pack_batches
from stages.engines.sampling import choose_tokens


class TransformersEngine:
    """Implements RolloutEngine.

    model_dir: folder with safetensors, config and tokenizer.
    compute_dtype: "bfloat16" or "float32"; type of the weights that the engine loads itself.
    max_model_tokens: longest prompt plus answer; None: the model's own limit.
    model, tokenizer: ready objects to be used as they are (a trainer's weights are then shared, not copied).
    max_batch_tokens: bound on rows x columns of a shared batch; a single request may be larger.
    batch_groups: also let requests with n > 1 share batches (faster, same answers up to rounding).

    Raises InputError for a model that cannot be loaded or whose layers are not all full attention.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        compute_dtype: str = "bfloat16",
        max_model_tokens: int | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: ChatTokenizer | None = None,
        max_batch_tokens: int = 32_768,
        batch_groups: bool = False,
    ) -> None:
        self.tokenizer = tokenizer if tokenizer is not None else ChatTokenizer(model_dir)
        self._owns_model = model is None
        self._model: Any = load_model(model_dir, compute_dtype) if model is None else model
        config = self._model.config
        if not _full_attention(config):
            raise InputError(
                f"the model in {model_dir} has layers that are not full attention (sliding window or state space). "
                "TransformersEngine cannot decode it; use a full-attention model such as Llama or Qwen3."
            )
        self.max_model_tokens: int = max_model_tokens or int(config.max_position_embeddings)
        self._max_batch_tokens = max_batch_tokens
        self._batch_groups = batch_groups
        self._end_ids = _end_ids(self._model, self.tokenizer)
        self._queue = RequestQueue(self.generate_all)
        self._device = self._model.device
        self._asleep = False

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return `request.n` completions; requests of other coroutines that wait at the same time share the batch.

        Raises InputError if prompt plus max_tokens exceeds max_model_tokens.
        """
        check_request(request, self.max_model_tokens)
        return await self._queue.submit(request)

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Generate for all requests, results in order. Raises InputError before any work if one is too long."""
        assert not self._asleep, "generate_all after sleep: call wake_up first"
        for request in requests:
            check_request(request, self.max_model_tokens)
        results: list[list[Completion]] = [[] for _ in requests]
        was_training = self._model.training
        self._model.eval()
        try:
            # A shared model must not meet inference tensors (rotary caches) in its next backward pass.
            with torch.inference_mode() if self._owns_model else torch.no_grad():
                for batch in pack_batches(requests, self._max_batch_tokens, self._batch_groups):
                    rows = self._generate_batch([requests[index] for index in batch])
                    for index, completions in zip(batch, rows, strict=True):
                        results[index] = completions
        finally:
            self._model.train(was_training)
        return results

    def _generate_batch(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """One batch: each prompt once, then one token per unfinished row and forward pass."""
        rows = [Row(request, copy) for request in requests for copy in range(request.n)]
        prompt_columns = max(len(request.prompt_ids) for request in requests)
        cache = RowCache(
            self._model.config.num_hidden_layers,
            len(rows),
            prompt_columns,
            max(request.max_tokens for request in requests),
        )
        logits_BV = self._prefill(requests, cache)
        cache.start_decoding()
        active = rows  # rows of the cache, in order; finished ones leave it from time to time
        while True:
            tokens, logprobs = choose_tokens(
                logits_BV,
                [row.request.temperature for row in active],
                [row.request.top_p for row in active],
                [row.generator for row in active],
            )
            for row, token, logprob in zip(active, tokens, logprobs, strict=True):
                row.append(token, logprob, self._end_ids, self.tokenizer)
            running = [index for index, row in enumerate(active) if row.finish_reason is None]
            if not running:
                break
            if 2 * len(running) <= len(active):  # copying the cache pays when half of it is dead
                cache.keep(torch.tensor(running, device=self._device))
                active = [active[index] for index in running]
            logits_BV = self._decode(active, cache, prompt_columns)
        completions = [row.completion() for row in rows]
        result, start = [], 0
        for request in requests:
            result.append(completions[start : start + request.n])
            start += request.n
        return result

    def _prefill(self, requests: Sequence[GenerationRequest], cache: RowCache) -> torch.Tensor:
        """Logits after each row's prompt, [B, V]; every prompt is computed once and without padding."""
        logits, first_row = [], 0
        for request in requests:
            cache.start_prefill(first_row, request.n)
            output = self._model(
                input_ids=torch.tensor([request.prompt_ids], device=self._device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits.append(output.logits[:, -1].expand(request.n, -1))
            first_row += request.n
        return torch.cat(logits)

    def _decode(self, active: Sequence[Row], cache: RowCache, prompt_columns: int) -> torch.Tensor:
        """Feed each row's last token; logits [B, V]."""
        lengths = [len(row.request.prompt_ids) for row in active]
        position_ids = [[row.next_position] for row in active]
        mask = None
        if min(lengths) < prompt_columns:
            column = torch.arange(cache.layout.length + 1, device=self._device)
            first = prompt_columns - torch.tensor(lengths, device=self._device)
            mask = (column[None, :] >= first[:, None])[:, None, None, :]  # [B, 1, 1, columns]
        output = self._model(
            input_ids=torch.tensor([[row.token_ids[-1]] for row in active], device=self._device),
            position_ids=torch.tensor(position_ids, device=self._device),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        cache.advance()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def sleep(self) -> None:
        """Move own weights off the GPU. The cache lives only during a call, so on CPU nothing is held."""
        self._asleep = True
        if self._owns_model and self._device.type == "cuda":
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def wake_up(self) -> None:
        """Undo `sleep`."""
        self._asleep = False
        if self._owns_model and self._device.type == "cuda":
            self._model.to(self._device)

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy new weights into the model in place, cast to its type.

        Raises InputError for an unknown name, another shape, or a parameter that was not given.
        """
        targets = self._model.state_dict()
        missing = {name for name, _ in self._model.named_parameters()}  # tied weights once
        with torch.no_grad():
            for name, tensor in named_tensors:
                if name not in targets or targets[name].shape != tensor.shape:
                    known = tuple(targets[name].shape) if name in targets else "unknown"
                    raise InputError(
                        f"weights {name} {tuple(tensor.shape)} do not fit the engine's model ({known}). "
                        "Load weights of the same architecture."
                    )
                if targets[name].data_ptr() != tensor.data_ptr():
                    targets[name].copy_(tensor)
                missing.discard(name)
        if missing:
            raise InputError(f"weights lack {len(missing)} parameters, the first is {min(missing)}. Give all of them.")

    def close(self) -> None:
        """Drop the model."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def load_model(model_dir: Path, compute_dtype: str) -> PreTrainedModel:
    """Open a folder of safetensors on the GPU if there is one. InputError if it is no causal language model."""
    transformers_logging.disable_progress_bar()  # stages log, they do not draw
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(model_dir),
            dtype=getattr(torch, compute_dtype),
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{model_dir} holds no model that transformers can open: {error}") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _full_attention(config: PreTrainedConfig) -> bool:
    """False if some layer sees a part of the text only, which RowCache does not hold."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None or not getattr(config, "use_sliding_window", True)


def _end_ids(model: PreTrainedModel, tokenizer: ChatTokenizer) -> frozenset[int]:
    """Every id that ends an answer: the tokenizer's and those of the generation config (one or several)."""
    generation_config = getattr(model, "generation_config", None)
    declared = getattr(generation_config, "eos_token_id", None)
    listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return frozenset({tokenizer.eos_id, *listed})
