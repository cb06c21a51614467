from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import ConfigError
from stages.rl.attention import tree_mask
from stages.rl.packing import pack_groups
from stages.rl.ulysses import SequenceGroup, _key_repeats, check_heads, pad_row
from tests.stages.rl.tiny_world import random_groups


@pytest.mark.parametrize("multiple", [1, 2, 3, 8])
def test_padding_is_a_tree_that_no_token_of_the_row_sees(multiple: int):
    (row,) = pack_groups(random_groups(2, 3, 7, (2, 5)), 1000)
    padded = pad_row(row, multiple)
    tokens = row.num_tokens
    assert padded.num_tokens % multiple == 0
    assert padded.num_tokens - tokens < multiple
    mask = tree_mask(padded)
    assert torch.equal(mask[:tokens, :tokens], tree_mask(row))
    assert not mask[:tokens, tokens:].any()
    assert not mask[tokens:, :tokens].any()
    assert mask.any(dim=1).all()  # no query without a key
    assert torch.equal(padded.hidden_index_N, row.hidden_index_N)


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 3))
def test_repeated_key_heads_can_be_divided_and_stay_with_their_queries(key_heads: int, group: int, parallel: int):
    query_heads, size = key_heads * 2**group, 2**parallel
    if query_heads % size:
        return
    repeats = _key_repeats(query_heads, key_heads, size)
    assert (key_heads * repeats) % size == 0
    assert query_heads % (key_heads * repeats) == 0
    # the key head of each query head is the one that it had
    for query in range(query_heads):
        repeated = query // (query_heads // (key_heads * repeats))
        assert repeated // repeats == query // (query_heads // key_heads)


def test_key_heads_are_repeated_only_where_they_must_be():
    assert _key_repeats(32, 8, 4) == 1
    assert _key_repeats(32, 8, 8) == 1
    assert _key_repeats(32, 4, 8) == 2
    assert _key_repeats(12, 2, 4) == 2
    assert _key_repeats(12, 3, 4) == 4


def test_heads_that_cannot_be_divided_name_the_knob():
    check_heads(SimpleNamespace(num_attention_heads=12), 4)
    with pytest.raises(ConfigError, match=r"sequence_parallel is 8.*12 attention heads"):
        check_heads(SimpleNamespace(num_attention_heads=12), 8)


def test_shares_cover_everything_once():
    for length in range(12):
        parts = [SequenceGroup(None, rank, 5).share(length) for rank in range(5)]
        assert [i for part in parts for i in range(length)[part]] == list(range(length))
