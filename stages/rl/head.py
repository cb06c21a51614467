"""Log-probability of each target token, and the entropy of its distribution, without holding all logits.

    logits = hidden @ lm_head^T / temperature;  logprob = logits[target] - logsumexp(logits);  entropy = -sum p log p

Positions are handled in chunks, and the backward pass computes each chunk's logits again, so at most
[chunk_tokens, V] logits exist at a time. Products accumulate and return in float32 (float64 for float64 inputs): rounding
logits or gradient chunks to bfloat16 biases training. The entropy carries no gradient.

Departure from fused GPU kernels: plain torch, chunked over tokens only.

Shapes: N scored tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def token_logprobs_and_entropy(
    hidden_NH: Tensor, lm_head_VH: Tensor, targets_N: Tensor, temperature: float, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (differentiable in hidden_NH and lm_head_VH) and entropies in nats of the targets' positions.

    temperature: divides the logits. chunk_tokens: positions handled at a time.
    Returns (logprobs_N, entropy_N), float32, or float64 for float64 inputs.
    Raises ValueError if temperature or chunk_tokens is not positive.
    """
    if temperature <= 0 or chunk_tokens < 1:
        raise ValueError(f"temperature {temperature} and chunk_tokens {chunk_tokens} must be positive")
    logprobs_N, entropy_N = _Head.apply(hidden_NH, lm_head_VH, targets_N, temperature, chunk_tokens)
    return logprobs_N, entropy_N


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, lm_head_VH: Tensor, targets_N: Tensor, temperature: float, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        dtype = _sum_dtype(lm_head_VH)
        weight_VH = lm_head_VH.to(dtype)
        logprobs_N = torch.empty(len(targets_N), dtype=dtype, device=hidden_NH.device)
        entropy_N = torch.empty_like(logprobs_N)
        for chunk in _chunks(len(targets_N), chunk_tokens):
            logits_CV = (hidden_NH[chunk].to(dtype) @ weight_VH.t()).div_(temperature)
            logprobs_CV = torch.log_softmax(logits_CV, dim=1)
            logprobs_N[chunk] = logprobs_CV.gather(1, targets_N[chunk, None]).squeeze(1)
            probs_CV = torch.exp(logprobs_CV, out=logits_CV)
            logprobs_CV.clamp_(min=torch.finfo(dtype).min)  # 0 * -inf is to be 0; a NaN stays one
            entropy_N[chunk] = -probs_CV.mul_(logprobs_CV).sum(dim=1)
        ctx.save_for_backward(hidden_NH, lm_head_VH, targets_N)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _entropy_grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, lm_head_VH, targets_N = ctx.saved_tensors
        dtype = _sum_dtype(lm_head_VH)
        weight_VH = lm_head_VH.to(dtype)
        hidden_grad_NH = torch.empty_like(hidden_NH)
        weight_grad_VH = torch.zeros_like(weight_VH)
        for chunk in _chunks(len(targets_N), ctx.chunk_tokens):
            hidden_CH = hidden_NH[chunk].to(dtype)
            logits_CV = (hidden_CH @ weight_VH.t()).div_(ctx.temperature)
            scale_C1 = (grad_N[chunk] / ctx.temperature)[:, None]
            # d logprob / d logits = onehot(target) - softmax
            logits_grad_CV = torch.softmax(logits_CV, dim=1).mul_(-scale_C1)
            logits_grad_CV.scatter_add_(1, targets_N[chunk, None], scale_C1)
            hidden_grad_NH[chunk] = (logits_grad_CV @ weight_VH).to(hidden_NH.dtype)
            weight_grad_VH.addmm_(logits_grad_CV.t(), hidden_CH)
        return hidden_grad_NH, weight_grad_VH.to(lm_head_VH.dtype), None, None, None


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
