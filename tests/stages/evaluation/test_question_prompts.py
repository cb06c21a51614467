"""Prompts that are too long, and where the evidence lies."""

import pytest
from evaluation_examples import sample

from stages.common.records import Evidence, Span
from stages.common.truncation import CUT_MARK
from stages.engines.scripted_engine import ByteTokenizer
from stages.evaluation.benchmarks.heldout import evidence_position
from stages.evaluation.prompting import fit_prompt
from stages.evaluation.samples import sample_question


def fit(context, tokenizer, limit):
    question = sample_question(
        sample(1), benchmark="x", context=lambda: context, metric="cover_exact_match", evidence_position=None
    )
    return fit_prompt(question.prompt, context, tokenizer, limit)


def test_a_long_context_loses_its_middle_and_keeps_the_question():
    context = "START " + "middle " * 300 + "END"
    tokenizer = ByteTokenizer()
    prompt = fit(context, tokenizer, 500)
    text = tokenizer.decode(prompt.ids)
    assert prompt.context_cut
    assert 495 <= len(prompt.ids) <= 500
    assert "<documents>\nSTART middle" in text
    assert CUT_MARK in text
    assert "middle END\n</documents>" in text
    assert "Question 1: capital of Norway?\nAnswer with the name or phrase only." in text


def test_a_context_that_fits_exactly_is_whole():
    tokenizer = ByteTokenizer()
    whole = fit("some context", tokenizer, 10_000)
    assert not whole.context_cut
    assert fit("some context", tokenizer, len(whole.ids)) == whole
    shorter = fit("some context", tokenizer, len(whole.ids) - 1)
    assert shorter.context_cut
    assert CUT_MARK in tokenizer.decode(shorter.ids)


def test_a_question_over_the_limit_has_no_prompt():
    assert fit("context", ByteTokenizer(), 60) is None


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
