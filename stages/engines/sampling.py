"""Choosing the next token: temperature, then nucleus; one uniform number per row and token.

A row's tokens depend on its logits and its own generator only, never on what else is in the batch. Legend: B rows,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# The nucleus nearly always lies within this many tokens; a row where it does not is sorted whole.
_NUCLEUS_CANDIDATES = 512


def choose_tokens(
    logits_BV: torch.Tensor,
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    generators: Sequence[torch.Generator],
) -> tuple[list[int], list[float]]:
    """Return one token per row and its log-probability (temperature 1, full vocabulary, float32).

    Temperature 0: the first of the largest logits. Else by inverse transform: the row's generator draws u in [0, 1),
    the token is the first whose cumulative probability exceeds u.
    """
    logits_BV = logits_BV.float()
    tokens_B = logits_BV.argmax(dim=-1)
    sampled = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if sampled:
        device = logits_BV.device
        scale_B = torch.tensor([temperatures[row] for row in sampled], device=device)
        uniform_B = torch.tensor(
            [torch.rand((), generator=generators[row], dtype=torch.float64).item() for row in sampled],
            dtype=torch.float64,
            device=device,
        )
        chosen = logits_BV if len(sampled) == len(tokens_B) else logits_BV[sampled]
        probabilities_BV = torch.softmax(chosen / scale_B[:, None], dim=-1)
        picked = _inverse_transform(probabilities_BV, [top_ps[row] for row in sampled], uniform_B)
        tokens_B[sampled] = picked
    chosen_logits_B = logits_BV.gather(1, tokens_B[:, None]).squeeze(1)
    logprobs_B = chosen_logits_B - logits_BV.logsumexp(dim=-1)
    return tokens_B.tolist(), logprobs_B.tolist()


def _inverse_transform(
    probabilities_BV: torch.Tensor, top_ps: Sequence[float], uniform_B: torch.Tensor
) -> torch.Tensor:
    """Draw one token per row from the nucleus of its distribution."""
    tokens = torch.empty(len(top_ps), dtype=torch.long, device=probabilities_BV.device)
    whole = [row for row, top_p in enumerate(top_ps) if top_p >= 1]
    nucleus = [row for row, top_p in enumerate(top_ps) if top_p < 1]
    if whole:
        cumulative = probabilities_BV[whole].double().cumsum(dim=-1)
        tokens[whole] = _first_above(cumulative, uniform_B[whole] * cumulative[:, -1])
    width = _NUCLEUS_CANDIDATES
    while nucleus:
        width = min(width, probabilities_BV.shape[1])
        top = probabilities_BV[nucleus].topk(width, dim=-1)
        cumulative = top.values.double().cumsum(dim=-1)
        limit = torch.tensor([top_ps[row] for row in nucleus], dtype=torch.float64, device=cumulative.device)
        # The nucleus: the smallest set of most likely tokens whose probability reaches top_p.
        last = torch.searchsorted(cumulative, limit[:, None]).squeeze(1)
        inside = (last < width) | (width == probabilities_BV.shape[1])
        last = last.clamp(max=width - 1)
        mass = cumulative.gather(1, last[:, None]).squeeze(1)
        position = torch.minimum(_first_above(cumulative, uniform_B[nucleus] * mass), last)
        picked = top.indices.gather(1, position[:, None]).squeeze(1)
        kept = inside.tolist()
        done = [index for index, ok in enumerate(kept) if ok]
        tokens[[nucleus[index] for index in done]] = picked[done]
        nucleus = [row for row, ok in zip(nucleus, kept, strict=True) if not ok]
        width = probabilities_BV.shape[1]
    return tokens


def _first_above(cumulative_BV: torch.Tensor, threshold_B: torch.Tensor) -> torch.Tensor:
    """Index of the first entry strictly above the row's threshold (never one of probability 0)."""
    index = torch.searchsorted(cumulative_BV, threshold_B[:, None], right=True).squeeze(1)
    return index.clamp(max=cumulative_BV.shape[1] - 1)
