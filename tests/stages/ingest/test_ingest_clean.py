"""Cleaning and exact duplicates."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.ingest.clean import clean
from stages.ingest.dedup import Deduplicator, text_key
from stages.ingest.reasons import DropReason, UnusableError


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("a\u2028b\x0cc\x85d", "a\nb\nc\nd"),  # everything that splitlines splits at
        ("a\x00b\x07c\x7f\ufeff\x9fd\te", "abcd\te"),
        ("e\u0301", "é"),
        ("a\n\n\nb", "a\n\n\nb"),  # two blank lines stay
        ("a\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n\t\n\n\n  b", "a\n\n\n  b"),
        ("\n\n  indented", "  indented"),
        ("x\ud800y", "xy"),
    ],
)
def test_cleaning(text, cleaned):
    assert clean(text) == cleaned


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=200))
def test_cleaning_twice_changes_nothing_and_the_result_can_be_written(text):
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")
    assert once.count("\n") == len((once + "x").splitlines()) - 1  # no other line end is left


def test_endless_combining_marks_are_refused_before_they_cost_quadratic_time():
    start = time.process_time()
    with pytest.raises(UnusableError) as error:
        clean("a" + "\u0301\u0323" * 200_000)
    assert error.value.reason is DropReason.BAD_UNICODE
    assert time.process_time() - start < 5  # normalising them takes minutes


def test_long_texts_in_other_scripts_are_not_refused():
    assert clean("漢字" * 1000) == "漢字" * 1000
    assert len(clean("a" + "\u0301" * 256)) == 256
    marks_apart = "漢\u0301" * 1000
    assert clean(marks_apart) == marks_apart


def test_duplicates_ignore_white_space_and_the_first_id_wins():
    seen = Deduplicator()
    assert seen.original_of("a", "one two\nthree") is None
    assert seen.original_of("b", "  one\ttwo three ") == "a"
    assert seen.original_of("c", "one twothree") is None
    assert text_key("x y") != text_key("X y")
