"""Choosing tokens, against distributions computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stages.engines.sampling import choose_tokens

PROBABILITIES = [0.15, 0.5, 0.05, 0.3]


def _draw(logits: torch.Tensor, temperature: float, top_p: float, draws: int) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return [choose_tokens(logits[None], [temperature], [top_p], [generator])[0][0] for _ in range(draws)]


def test_greedy_takes_the_largest_logit_and_its_full_logprob() -> None:
    logits = torch.tensor(PROBABILITIES).log()[None]
    tokens, logprobs = choose_tokens(logits, [0.0], [1.0], [torch.Generator()])
    assert tokens == [1]
    assert logprobs == pytest.approx([math.log(0.5)])


def test_without_a_nucleus_tokens_have_their_probabilities() -> None:
    tokens = _draw(torch.tensor(PROBABILITIES).log(), 1.0, 1.0, 4000)
    for token, probability in enumerate(PROBABILITIES):
        assert tokens.count(token) / 4000 == pytest.approx(probability, abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    # 0.5 + 0.3 reaches 0.7: tokens 1 and 3, at 0.5 / 0.8 and 0.3 / 0.8.
    tokens = _draw(torch.tensor(PROBABILITIES).log(), 1.0, 0.7, 4000)
    assert set(tokens) == {1, 3}
    assert tokens.count(1) / 4000 == pytest.approx(0.625, abs=0.03)


def test_the_nucleus_is_taken_after_the_temperature() -> None:
    # At temperature 0.5 the probabilities are squared: 0.25 / 0.365 = 0.685 reaches 0.6 alone.
    assert set(_draw(torch.tensor(PROBABILITIES).log(), 0.5, 0.6, 500)) == {1}
    assert set(_draw(torch.tensor(PROBABILITIES).log(), 1.0, 0.6, 500)) == {1, 3}


def test_a_wide_nucleus_is_sampled_whole() -> None:
    logits = -torch.arange(3000) / 3000.0
    probabilities = logits.softmax(0).double()
    width = int((probabilities.cumsum(0) < 0.9).sum()) + 1
    tokens = _draw(logits, 1.0, 0.9, 400)
    assert max(tokens) < width
    assert max(tokens) > 2000


def test_the_logprob_ignores_temperature_and_nucleus() -> None:
    logits = torch.tensor(PROBABILITIES).log()[None]
    tokens, logprobs = choose_tokens(logits, [0.3], [0.5], [torch.Generator()])
    assert tokens == [1]
    assert logprobs == pytest.approx([math.log(0.5)])


def test_a_rows_token_does_not_depend_on_the_other_rows() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]

    together = choose_tokens(logits, [0.7, 0.0, 1.0], [0.9, 1.0, 1.0], generators())
    alone = [
        choose_tokens(logits[row : row + 1], [temperature], [top_p], [generators()[row]])
        for row, (temperature, top_p) in enumerate([(0.7, 0.9), (0.0, 1.0), (1.0, 1.0)])
    ]
    assert together[0] == [tokens[0] for tokens, _ in alone]
    assert together[1] == pytest.approx([logprobs[0] for _, logprobs in alone])


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    assert set(_draw(logits, 1.0, 1.0, 300)) == {0, 2}
