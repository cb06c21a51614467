import pytest
import torch
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy

from stages.rl.head import token_logprobs_and_entropy


def random_case(dtype: torch.dtype, tokens: int = 13, hidden: int = 8, vocabulary: int = 50):
    generator = torch.Generator().manual_seed(4)
    h = torch.randn(tokens, hidden, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    w = torch.randn(vocabulary, hidden, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return h, w, targets


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_entropy_and_gradients_equal_the_dense_float64_oracle(chunk, temperature):
    h, w, targets = random_case(torch.float64)
    logprobs, entropy = token_logprobs_and_entropy(h, w, targets, temperature, chunk)
    weights = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    gradients = torch.autograd.grad((logprobs * weights).sum(), [h, w])

    logits = h @ w.T / temperature
    oracle = -cross_entropy(logits, targets, reduction="none")
    oracle_gradients = torch.autograd.grad((oracle * weights).sum(), [h, w])
    torch.testing.assert_close(logprobs, oracle, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, Categorical(logits=logits.detach()).entropy(), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients, oracle_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_gradcheck():
    h, w, targets = random_case(torch.float64, tokens=5, vocabulary=7)
    assert torch.autograd.gradcheck(lambda a, b: token_logprobs_and_entropy(a, b, targets, 0.8, 2)[0], (h, w))


def test_bfloat16_inputs_are_summed_in_float32():
    h, w, targets = random_case(torch.bfloat16)
    logprobs, entropy = token_logprobs_and_entropy(h, w, targets, 1.0, 4)
    logits = (h.double() @ w.double().T).detach()
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), -cross_entropy(logits, targets, reduction="none"), rtol=0, atol=1e-5)
    logprobs.sum().backward()
    assert h.grad.dtype == w.grad.dtype == torch.bfloat16


def test_impossible_tokens_do_not_make_the_entropy_nan():
    h = torch.tensor([[1.0, 0.0]])
    w = torch.tensor([[1e4, 0.0], [-1e4, 0.0], [1e4, 0.0]])
    _, entropy = token_logprobs_and_entropy(h, w, torch.tensor([0]), 1.0, 8)
    assert float(entropy) == pytest.approx(0.6931472, abs=1e-6)


def test_never_more_than_a_chunk_of_logits():
    tokens, hidden, vocabulary, chunk = 4096, 4, 1000, 32
    h = torch.randn(tokens, hidden).requires_grad_()
    w = torch.randn(vocabulary, hidden).requires_grad_()
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    sizes.append(tensor.numel())
            return result

    with Watch():
        logprobs, _ = token_logprobs_and_entropy(h, w, torch.zeros(tokens, dtype=torch.int64), 1.0, chunk)
        logprobs.sum().backward()
    assert max(sizes) <= chunk * vocabulary


def test_no_tokens_give_empty_results():
    logprobs, entropy = token_logprobs_and_entropy(
        torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64), 1.0, 4
    )
    assert logprobs.shape == entropy.shape == (0,)


def test_temperature_and_chunk_must_be_positive():
    h, w, targets = random_case(torch.float32)
    with pytest.raises(ValueError, match="positive"):
        token_logprobs_and_entropy(h, w, targets, 0.0, 4)
    with pytest.raises(ValueError, match="positive"):
        token_logprobs_and_entropy(h, w, targets, 1.0, 0)


def test_nan_hidden_states_show_in_both_results():
    logprobs, entropy = token_logprobs_and_entropy(
        torch.full((1, 2), float("nan")), torch.ones(3, 2), torch.tensor([0]), 1.0, 4
    )
    assert logprobs.isnan().all()
    assert entropy.isnan().all()
