"""Prompts that are too long, and where the evidence lies."""

import pytest
from evaluation_examples import sample

from stages.common.errors import InputError
from stages.common.records import Evidence, Span
from stages.engines.scripted_engine import ByteTokenizer
from stages.evaluation.base import CUT_MARK, full_context_prompt
from stages.evaluation.benchmarks.heldout import evidence_position


def test_a_long_context_loses_its_middle_and_keeps_the_question():
    context = "START " + "middle " * 300 + "END"
    tokenizer = ByteTokenizer()
    prompt = full_context_prompt(sample(1), context, tokenizer, 500)
    text = tokenizer.decode(prompt)
    assert 495 <= len(prompt) <= 500
    assert "<documents>\nSTART middle" in text
    assert CUT_MARK in text
    assert "middle END\n</documents>" in text
    assert "Question 1: capital of Norway?\nAnswer with the name or phrase only." in text


def test_a_context_that_fits_exactly_is_whole():
    tokenizer = ByteTokenizer()
    length = len(full_context_prompt(sample(1), "some context", tokenizer, 10_000))
    assert "some context" in tokenizer.decode(full_context_prompt(sample(1), "some context", tokenizer, length))
    assert CUT_MARK in tokenizer.decode(full_context_prompt(sample(1), "some context", tokenizer, length - 1))


def test_a_question_over_the_limit_is_refused_with_the_numbers():
    with pytest.raises(
        InputError, match=r"question multi_hop-1 has \d+ tokens without any context, .* is 60. Raise it"
    ):
        full_context_prompt(sample(1), "context", ByteTokenizer(), 60)


@pytest.mark.parametrize(
    ("context", "position"),
    [
        ([("a", 0, 100), ("b", 0, 100)], (100 + 40) / 200),
        ([("b", 40, 60), ("a", 0, 60)], 0.0),
        ([("b", 0, 40), ("a", 0, 60)], None),
        ([], None),
    ],
)
def test_evidence_position_is_a_share_of_the_context(context, position):
    asked = sample(
        1,
        evidence=[
            Evidence(document_id="b", start=50, end=52, quote="xx"),
            Evidence(document_id="b", start=40, end=42, quote="xx"),
        ],
        context=[Span(document_id=name, start=start, end=end) for name, start, end in context],
    )
    assert evidence_position(asked) == position
