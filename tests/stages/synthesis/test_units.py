from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.synthesis.currencies import CURRENCIES, MONEY, currencies_in
from stages.synthesis.quantities import parse_cell, parse_quantity
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
    assert len({base_unit(f"million {name}")[1] for name in MONEY}) == len(MONEY)


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (
            ("$5 million", "US$5 million", "US$ 5 million", "USD 5 million", "5 million USD", "5 million US dollars"),
            "dollars",
        ),
        (("€5 million", "EUR 5 million", "EUR5 million", "5 million EUR", "5 million euros"), "euros"),
        (("£5 million", "GBP 5 million", "5 million GBP"), "pounds"),
        (("¥5 million", "JPY 5 million", "5 million JPY", "5 million yen"), "yen"),
        (("CN¥5 million", "CNY 5 million", "5 million CNY"), "yuan"),
        (("A$5 million", "AUD 5 million"), "Australian dollars"),
        (("C$5 million", "CAD 5 million"), "Canadian dollars"),
    ],
)
def test_sign_and_code_of_a_currency_give_the_same_unit(texts, unit):
    for text in texts:
        found = parse_quantity(text)
        assert found is not None, text
        factor, base = base_unit(found.unit)
        assert (found.value * factor, base) == (Decimal(5_000_000), unit), text
        assert is_clear_unit(found.unit)


@pytest.mark.parametrize("text", ["R$5 million", "USDA 5", "5 million EURO", "Eur 5", "EUR", "AUS$ 5"])
def test_what_is_no_known_mark_is_not_read_as_another_currency(text):
    found = parse_quantity(text)
    assert found is None or base_unit(found.unit)[1] not in MONEY


@given(st.sampled_from(sorted(CURRENCIES)), st.sampled_from(sorted(CURRENCIES)), st.integers(1, 10**6))
def test_two_marks_mean_one_unit_only_if_they_name_one_currency(first, second, number):
    units = [base_unit(found.unit)[1] for mark in (first, second) if (found := parse_cell(f"{mark} {number}"))]
    assert len(units) == 2
    assert (units[0] == units[1]) == (CURRENCIES[first] == CURRENCIES[second])
    assert currencies_in(f"({first} and {second})") == list(dict.fromkeys([CURRENCIES[first], CURRENCIES[second]]))


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
