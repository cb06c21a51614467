from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.synthesis.units import base_unit, common_unit, find_scale, is_clear_unit


@pytest.mark.parametrize(
    ("unit", "factor", "base"),
    [
        ("billion dollars", "1000000000", "dollars"),
        ("million", "1000000", ""),
        ("trillion kWh", "1000000000000000", "Wh"),
        ("sq km", "1000000", "sq m"),
        ("mm", "0.001", "m"),
        ("kt", "1000000", "kg"),
        ("million metric tons", "1000000000", "kg"),
        ("million metric tonnes of CO2", "1000000000", "kg of CO2"),
        ("percent", "1", "%"),
        ("% of GDP", "1", "% of GDP"),
        ("bbl/day", "1", "bbl/day"),
        ("", "1", ""),
    ],
)
def test_magnitudes_and_prefixes_become_exact_factors(unit, factor, base):
    assert base_unit(unit) == (Decimal(factor), base)


def test_currencies_stay_apart():
    assert len({base_unit(f"million {name}")[1] for name in ("dollars", "euros", "pounds")}) == 3


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("(In millions except per share data)", "in millions"),
        ("Millions, Except Per Share Amounts, for the Years Ended December 31,", "in millions"),
        ("(Dollars in thousands)", "in thousands"),
        ("($ millions)", "in millions"),
        ("(millions of dollars)", "in millions"),
        ("Amounts in billions", "in billions"),
        ("Dollars in millions;shares in thousands", "in millions"),
        ("Millions", "in millions"),
        ("We sold millions of units", None),
        ("A millionaire's year", None),
        ("Year ended", None),
    ],
)
def test_the_scale_of_a_caption_or_header(text, phrase):
    found = find_scale(text, 100)
    assert (found.phrase if found else None) == phrase
    if found:
        assert find_scale(text[found.start - 100 : found.end - 100]) is not None


def test_a_unit_with_a_name_in_it_is_not_clear():
    assert is_clear_unit("% of GDP")
    assert is_clear_unit("million metric tonnes of CO2")
    assert not is_clear_unit("million VIENNA")
    assert not is_clear_unit("Kosovo")


def test_the_unit_that_most_are_written_in():
    assert common_unit(["km", "m", "km"]) == "km"
    assert common_unit(["m", "km"]) == "km"


@given(st.text(alphabet="inmllosthuad$ (),;of\n", max_size=80))
def test_the_words_of_any_found_scale_say_it_again(text):
    """What the proof relies on: the characters of the scale alone give the same factor."""
    found = find_scale(text)
    if found is not None:
        again = find_scale(text[found.start : found.end])
        assert again is not None
        assert again.factor == found.factor
