import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.rl.attention import tree_mask
from stages.rl.packing import Branch, PackedRow, Tree, pack_trees
from stages.rl.tree_layout import cut_row, padded_tokens, trunk_tokens

trees = st.lists(
    st.tuples(st.sampled_from([1, 5, 30, 2047, 2048, 2500, 3100]), st.lists(st.integers(1, 9), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def make_row(shapes: list[tuple[int, list[int]]]) -> PackedRow:
    made = [
        Tree(tuple(range(prompt)), tuple(Branch(tuple(range(tokens)), i, 0) for i, tokens in enumerate(answers)))
        for prompt, answers in shapes
    ]
    (row,) = pack_trees(made, sum(tree.num_tokens for tree in made))
    return row


@settings(deadline=None, max_examples=15)
@given(trees)
def test_trunks_and_ragged_segments_show_each_query_what_the_mask_allows_once(shapes):
    row = make_row(shapes)
    layout = cut_row(row, torch.device("cpu"))
    seen = torch.zeros(row.num_tokens, row.num_tokens, dtype=torch.int8)
    for trunk in layout.trunks:
        inside = slice(trunk.start, trunk.end)
        seen[inside, inside] += torch.ones_like(seen[inside, inside]).tril()
        seen[trunk.end : trunk.crown_end, inside] += 1
    queries = layout.query_index_Q
    if queries is None:
        queries = torch.arange(layout.first_query, row.num_tokens)
    keys = queries if layout.key_index_K is None else layout.key_index_K
    bounds = zip(layout.cu_seq_q.tolist(), layout.cu_seq_k.tolist(), strict=True)
    previous = (0, 0)
    for end_q, end_k in list(bounds)[1:]:
        q, k = queries[previous[0] : end_q], keys[previous[1] : end_k]
        offset = len(k) - len(q)  # causal to the bottom right
        allowed = torch.ones(len(q), len(k), dtype=torch.int8).tril(offset)
        assert len(q) <= layout.max_q
        assert len(k) <= layout.max_k
        seen[q[:, None], k[None, :]] += allowed
        previous = (end_q, end_k)
    assert previous == (len(queries), len(keys))
    assert torch.equal(seen, tree_mask(row).to(torch.int8))


@pytest.mark.parametrize(
    ("prompt", "trunk"),
    [(10, 0), (2047, 0), (2048, 2048), (3071, 2048), (3072, 3072), (40_000, 38_912), (131_072, 131_072)],
)
def test_trunk_is_a_coarse_multiple_within_the_prompt(prompt, trunk):
    assert trunk_tokens(prompt, branches=8) == trunk


@pytest.mark.parametrize(("prompt", "trunk"), [(2048, 0), (16_383, 0), (16_384, 16_384), (40_000, 38_912)])
def test_a_single_sequence_has_a_trunk_only_if_it_is_long(prompt, trunk):
    assert trunk_tokens(prompt, branches=1) == trunk
    assert trunk_tokens(prompt, branches=0) == trunk


def test_turns_of_the_agent_are_ragged_segments_of_one_call():
    layout = cut_row(make_row([(3000, [40]), (2500, [7]), (60, [5])]), torch.device("cpu"))
    assert layout.trunks == ()
    assert layout.cu_seq_q.tolist() == layout.cu_seq_k.tolist() == [0, 3039, 5545, 5609]


def test_padding_is_at_most_a_sixteenth_or_a_block_of_128():
    for tokens in (1, 100, 128, 129, 5_000, 8_184, 33_000):
        assert tokens <= padded_tokens(tokens) < tokens + max(128, tokens / 16) + 1


def test_there_are_few_distinct_trunks_and_padded_lengths():
    assert len({trunk_tokens(n, 8) for n in range(1, 131_073)}) < 70
    assert len({padded_tokens(n) for n in range(1, 131_073)}) < 140
