"""Attention of prefix-tree rows on a CUDA device against float32 attention under the row's dense mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from stages.rl.attention import tree_mask
from stages.rl.packing import Branch, Tree, pack_trees
from stages.rl.tree_attention import tree_attention
from stages.rl.tree_layout import cut_row

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# (prompt tokens, answer tokens of each branch) per tree
ROWS = {
    "short prompts only": [(100, [20, 1, 33]), (7, [5]), (300, [64, 64])],
    "a long prompt that is all trunk": [(4096, [200, 128, 77])],
    "a long prompt with a rest": [(4500, [200, 1, 128, 300])],
    "one answer to a prompt": [(3000, [500])],
    "one answer to a long prompt": [(17_000, [60])],
    "long and short trees in one row": [(50, [9, 8]), (2500, [100, 90]), (10, [3]), (2100, [40]), (64, [64, 64])],
    "answers of one token": [(2048, [1, 1]), (30, [1, 1])],
    "many answers": [(2300, [130] * 16)],
}


def relative_l2(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one.float() - two.float()).norm() / two.float().norm())


@pytest.mark.parametrize(("heads", "key_heads", "size"), [(4, 2, 128), (6, 2, 64), (4, 4, 32)])
@pytest.mark.parametrize("name", list(ROWS))
def test_output_and_gradients_are_those_of_dense_attention(name, heads, key_heads, size):
    trees = []
    for prompt, answers in ROWS[name]:
        branches = tuple(Branch(tuple(range(1, tokens + 1)), i, 0) for i, tokens in enumerate(answers))
        trees.append(Tree(tuple(range(prompt)), branches))
    (row,) = pack_trees(trees, sum(tree.num_tokens for tree in trees))
    generator = torch.Generator("cuda").manual_seed(0)

    def random(count: int) -> torch.Tensor:
        shape = (row.num_tokens, count, size)
        return torch.randn(shape, generator=generator, device="cuda").to(torch.bfloat16).requires_grad_()

    inputs = random(heads), random(key_heads), random(key_heads)
    upstream = random(heads).detach()
    output = tree_attention(*inputs, cut_row(row, torch.device("cuda")), size**-0.5)
    gradients = torch.autograd.grad(output, inputs, upstream)

    exact = [tensor.detach().float().transpose(0, 1)[None].requires_grad_() for tensor in inputs]
    expected = scaled_dot_product_attention(*exact, attn_mask=tree_mask(row).cuda(), enable_gqa=True)
    expected_gradients = torch.autograd.grad(expected, exact, upstream.float().transpose(0, 1)[None])
    assert relative_l2(output, expected[0].transpose(0, 1)) < 1e-2
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert relative_l2(gradient, expected_gradient[0].transpose(0, 1)) < 1e-2
