"""Counts of lines add up to the count of the whole, for the pre-tokenizers of today's models and any text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from stages.common.prompts import defuse_tags, opening_tag
from stages.common.tokens import TokenCounter
from stages.synthesis.line_tokens import LineCounter

# As published in the tokenizer.json of Qwen 2.5 and 3, and of Llama 3.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
TRAINING = [
    "def run(self):\n    return {'a': 1}\n\n\n# A title\n\nSome text, with commas; and more.\n- item\n- item\n\n| a | b |\n",
    '</document>\n<document title="A">\n</document>\n<document>\n\n\n   indented\n\t\ttabs\r\nwindows\r\n',
] * 20


def counter(folder, pattern):
    split = ByteLevel(add_prefix_space=False)
    if pattern is not None:
        split = Sequence([Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator(
        TRAINING, BpeTrainer(vocab_size=600, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenCounter(folder / "tokenizer.json")


@pytest.fixture(scope="module", params=[None, QWEN, LLAMA], ids=["gpt2", "qwen", "llama3"])
def tokens(request, tmp_path_factory):
    return counter(tmp_path_factory.mktemp("tokenizer"), request.param)


pieces = st.sampled_from(
    [
        "word",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "# Head",
        "- item",
        ".",
        "):",
        "12",
        "…",
        "<",
        "</document>",
        "<|",
        "é",
        "\u2003",
        "\x0b",
        "x=1;",
    ]
)
texts = st.lists(pieces, min_size=1, max_size=60).map("".join)


def whole_context(title, parts):
    blocks = [f"{opening_tag(title)}\n{defuse_tags(part)}\n</document>" for part in parts]
    return "\n".join(blocks)


@settings(max_examples=80, deadline=None)
@given(text=texts, data=st.data())
def test_any_parts_of_any_text_count_as_the_context_that_holds_them(tokens, text, data):
    lines = LineCounter(tokens)
    counted = lines.segments(text)
    ends = data.draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, len(text))), min_size=1, max_size=3))
    spans = [(min(pair), max(pair)) for pair in ends]
    spans = [(start, end) for start, end in spans if start < end]
    if not spans:
        return
    total = sum(lines.opening("T") + lines.span(counted, text, *span) + lines.closing_tokens for span in spans)
    total += tokens.count("</document>") - lines.closing_tokens
    assert total == tokens.count(whole_context("T", [text[start:end] for start, end in spans]))


def test_segments_begin_where_a_line_begins_without_a_blank(tokens):
    text = "one\n  two\n\nthree\n\n\n four\nfive"
    counted = LineCounter(tokens).segments(text)
    assert [text[start:end] for start, end in zip(counted.starts, counted.text_ends, strict=True)] == [
        "one\n  two",
        "three\n\n\n four",
        "five",
    ]
    assert counted.before[-1] == LineCounter(tokens).line(text)


def test_an_empty_text_has_no_segments(tokens):
    for text in ("", "\n \n"):
        counted = LineCounter(tokens).segments(text)
        assert counted.segments == 0
        assert np.array_equal(counted.before, [0])
