"""Cleaning and exact duplicates."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.ingest.clean import clean, resolve_entities
from stages.ingest.parsed import parsed
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


def test_entities_in_prose_are_the_characters_they_stand_for_and_those_of_markup_stay():
    assert resolve_entities("Rep&uacute;blica, C&ocirc;te, &#233;, &#xe9;, 5&nbsp;%") == "República, Côte, é, é, 5\xa0%"
    untouched = "&lt;b&gt; &amp;eacute; &#60; &quot; &unknown; R&D; AT&T"
    assert resolve_entities(untouched) == untouched


def test_entities_are_resolved_in_documents_but_not_in_code():
    assert parsed("Rep&uacute;blica", "# Rep&uacute;blica", "markdown").text == "# República"
    assert parsed("Rep&uacute;blica", "x", "markdown").title == "República"
    assert parsed("a.py", 'x = "&uacute;"', "python").text == 'x = "&uacute;"'
