"""Log-probability of each target token, and the entropy of its distribution, without holding all logits.

    logits = hidden @ lm_head^T / temperature;  logprob = logits[target] - logsumexp(logits);  entropy = -sum p log p

Positions are handled in chunks, and the backward pass computes each chunk's logits again, so at most
[chunk_tokens, V] logits exist at a time. Products accumulate and return in float32 (float64 for float64 inputs): rounding
logits or gradient chunks to bfloat16 biases training. The entropy carries no gradient.

With bfloat16 inputs on CUDA the products run on tensor cores with float32 results. There the logits' gradient is split into
two bfloat16 terms, high and low part, whose products are added: 16 bits of mantissa instead of 8, at a tenth of the time of
a float32 product.

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
        weight_VH = _operand(lm_head_VH, dtype)
        logprobs_N = torch.empty(len(targets_N), dtype=dtype, device=hidden_NH.device)
        entropy_N = torch.empty_like(logprobs_N)
        for chunk in _chunks(len(targets_N), chunk_tokens):
            logits_CV = _product(_operand(hidden_NH[chunk], dtype), weight_VH.t(), dtype).div_(temperature)
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
        weight_VH = _operand(lm_head_VH, dtype)
        hidden_grad_NH = torch.empty_like(hidden_NH)
        weight_grad_VH = torch.zeros_like(lm_head_VH, dtype=dtype)
        for chunk in _chunks(len(targets_N), ctx.chunk_tokens):
            hidden_CH = _operand(hidden_NH[chunk], dtype)
            logits_CV = _product(hidden_CH, weight_VH.t(), dtype).div_(ctx.temperature)
            scale_C1 = (grad_N[chunk] / ctx.temperature)[:, None]
            # d logprob / d logits = onehot(target) - softmax
            logits_grad_CV = torch.softmax(logits_CV, dim=1).mul_(-scale_C1)
            logits_grad_CV.scatter_add_(1, targets_N[chunk, None], scale_C1)
            terms = _terms(logits_grad_CV, weight_VH.dtype)
            hidden_grad_NH[chunk] = sum(_product(term_CV, weight_VH, dtype) for term_CV in terms)
            for term_CV in terms:
                weight_grad_VH.add_(_product(term_CV.t(), hidden_CH, dtype))
        return hidden_grad_NH, weight_grad_VH.to(lm_head_VH.dtype), None, None, None


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _operand(tensor: Tensor, sum_dtype: torch.dtype) -> Tensor:
    """The tensor as a factor: bfloat16 stays so on CUDA, where products of it can return float32."""
    return tensor if tensor.is_cuda and tensor.dtype == torch.bfloat16 else tensor.to(sum_dtype)


def _product(one: Tensor, two: Tensor, sum_dtype: torch.dtype) -> Tensor:
    """One @ two in the type of the sums."""
    if one.dtype == two.dtype == torch.bfloat16:
        return torch.mm(one, two, out_dtype=sum_dtype)
    return one.to(sum_dtype) @ two.to(sum_dtype)


def _terms(tensor: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The tensor as a sum of tensors of the type: itself, or its high and its low part."""
    if dtype != torch.bfloat16:
        return [tensor]
    high = tensor.to(dtype)
    return [high, tensor.sub_(high).to(dtype)]


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
