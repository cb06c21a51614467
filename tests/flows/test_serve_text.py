"""What a client sees of a response, token by token: the same as of the whole, whatever the pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.serve_text import AnswerText
from stages.engines.scripted_engine import ByteTokenizer

TOKENIZER = ByteTokenizer()


def shown(text, cuts=(), **options):
    """content, reasoning, stopped; and the deltas."""
    ids = TOKENIZER.encode_text(text)
    answer = AnswerText(TOKENIZER.decode, **options)
    deltas = [answer.feed(ids[:cut]) for cut in sorted({min(cut, len(ids)) for cut in cuts})]
    deltas.append(answer.feed(ids, last=True))
    assert "".join(delta.content for delta in deltas) == answer.content
    assert "".join(delta.reasoning for delta in deltas) == answer.reasoning
    return (answer.content, answer.reasoning, answer.stopped), deltas


@pytest.mark.parametrize(
    ("text", "options", "content", "reasoning"),
    [
        ("  42 \n", {}, "42", ""),
        ("\n<think>hm</think>\n\n42", {}, "42", "hm"),
        ("hm</think>42", {"in_reasoning": True}, "42", "hm"),
        ("<think>for ever", {}, "", "for ever"),
        ("<thin", {}, "<thin", ""),
        ("a < b", {}, "a < b", ""),
        ("Paris. END and more", {"stop": ["END"]}, "Paris.", ""),
        ("one two one", {"stop": ["two", "one "]}, "", ""),
        ("<think>a END b</think>yes END", {"stop": ["END"]}, "yes", "a END b"),
        ("EN", {"stop": ["END"]}, "EN", ""),
        ("", {}, "", ""),
    ],
)
def test_content_reasoning_and_stop_texts(text, options, content, reasoning):
    whole, _ = shown(text, **options)
    assert whole[:2] == (content, reasoning)
    by_token, _ = shown(text, range(len(text.encode())), **options)
    assert by_token == whole


def test_text_goes_out_as_soon_as_it_cannot_be_a_mark():
    _, deltas = shown("Hi <br>", range(1, 8), stop=["<end>"])
    assert [delta.content for delta in deltas] == ["H", "i", "", "", " <b", "r", ">", ""]


def test_no_half_character_is_shown():
    _, deltas = shown("aé€😀", range(1, 11))
    assert [delta.content for delta in deltas if delta.content] == ["a", "é", "€", "😀"]


@given(
    st.text(alphabet="ab <>/thinkEND\né😀", max_size=60),
    st.sets(st.integers(0, 120)),
    st.lists(st.sampled_from(["END", "a", "b\n", "EE", "é"]), max_size=3),
    st.booleans(),
    st.sampled_from(["", "<think>", " <think>a</think>"]),
)
def test_pieces_change_nothing(text, cuts, stop, in_reasoning, start):
    whole, _ = shown(start + text, stop=stop, in_reasoning=in_reasoning)
    pieces, _ = shown(start + text, cuts, stop=stop, in_reasoning=in_reasoning)
    assert pieces == whole
