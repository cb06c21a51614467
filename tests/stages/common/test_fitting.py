"""Cutting text to a token budget with nothing but a counting function."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.fitting import cut_to_tokens, longest_prefix, longest_suffix


def count_bytes(text):
    return len(text.encode())


def count_words(text):
    return len(text.split())


@pytest.mark.parametrize(
    ("text", "limit", "length"),
    [("abcdef", 4, 4), ("abcdef", 6, 6), ("abcdef", 100, 6), ("äöü", 4, 2), ("äöü", 1, 0), ("", 5, 0), ("abc", 0, 0)],
)
def test_the_prefix_is_the_longest_that_fits(text, limit, length):
    assert longest_prefix(text, limit, count_bytes) == length


@given(st.text(max_size=200), st.integers(1, 120), st.integers(0, 300))
def test_the_prefix_fits_and_one_character_more_does_not(text, limit, guess):
    end = longest_prefix(text, limit, count_bytes, guess_characters=guess)
    assert count_bytes(text[:end]) <= limit
    assert end == len(text) or count_bytes(text[: end + 1]) > limit


@given(st.text(max_size=300), st.integers(8, 120), st.integers(1, 8))
def test_with_slack_the_prefix_is_short_by_the_slack_at_most(text, limit, slack):
    end = longest_prefix(text, limit, count_bytes, slack)
    # A character has up to four bytes, so up to three may stay unused besides.
    assert limit - slack - 3 <= count_bytes(text[:end]) <= limit or end == len(text)


def test_a_search_takes_few_counts():
    calls = []

    def count(text):
        calls.append(len(text))
        return len(text.encode())

    text = "some words and numbers 123 " * 10_000
    assert 990 <= longest_prefix(text, 1000, count, slack_tokens=10) <= 1000
    assert len(calls) <= 8
    assert max(calls) <= 4000  # never the whole text


def test_the_suffix_is_measured_from_the_end():
    assert longest_suffix("abcdefgh", 4, count_bytes) in (4, 5, 6)
    assert longest_suffix("ab", 4, count_bytes) == 0
    assert longest_suffix("abc", 0, count_bytes) == 3


def test_a_text_within_the_limit_is_untouched():
    assert cut_to_tokens("a b c", 3, count_words, " [cut]") == "a b c"


def test_a_cut_text_ends_with_the_notice_within_the_limit():
    assert cut_to_tokens("abcdefghij", 8, count_bytes, "..") == "abcdef.."
    assert cut_to_tokens("äöüäöü", 9, count_bytes, "..") == "äöü.."


def test_a_notice_too_long_for_the_limit_is_left_out():
    assert cut_to_tokens("abcdefghij", 5, count_bytes, "[cut]") == "abcde"
