"""DocMath-Eval's forgiving comparison: its documented consequences, by hand, and an arithmetic parser that cannot be abused."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.rewards.docmath import arithmetic, docmath_match, docmath_value
from stages.rewards.rules import numeric_match


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("42", "42"),
        ("-5", "5"),  # the sign is ignored
        ("12", "1200"),  # a power of ten
        ("0.0001", "0.0009"),  # both are 0.001 after rounding up
        ("100.1", "100"),  # within 0.15 %
        ("99.85", "100"),
        ("0.1234", "12.35"),  # percent slip: 12.34 is within 0.15 % of 12.35
        ("1.2345", "1234"),  # thousand slip
        ("0.012345", "1234.5"),  # 10 ** 5
        ("$1,234.5 million", "1234.5"),
        ("x = 3 + 4 = 7", "7"),
        ("≈ 7", "7"),
        ("7 or 8", "7"),
        ("12 %", "12"),
        ("about 12", "12"),
        ("12 sq km", "12"),
        ("(1 + 2) * 3 / 4", "2.25"),
        ("2 ** 10", "1024"),
        ("yes", "True"),
        ("no", "false"),
        ("no idea", "0"),  # what cannot be read is 0
        ("", "0"),
    ],
)
def test_accepted(prediction, gold):
    assert docmath_match(prediction, gold) == 1


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("100.16", "100"),
        ("-100.1", "100"),  # near, but the sign counts there
        ("13", "12"),
        ("0.0011", "0.0009"),
        ("yes", "1"),
        ("yes", "no"),
        ("seven", "7"),
        ("7, 8", "7"),
        ("1 / 0", "5"),
        ("6", "12"),
    ],
)
def test_refused(prediction, gold):
    assert docmath_match(prediction, gold) == 0


def test_two_decimals_as_in_qwenlong_l1():
    assert docmath_match("0.0011", "0.0009", decimals=2) == 1


def test_the_reward_forgives_none_of_it():
    for prediction, gold in [("-5", "5"), ("12", "1200"), ("0.0001", "0.0009"), ("100.1", "100"), ("0.1234", "12.34")]:
        assert docmath_match(prediction, gold) == 1
        assert numeric_match(prediction, gold) == 0


def test_tenths_are_tenths():
    assert arithmetic("0.1 + 0.2") == Fraction(3, 10)
    assert docmath_match("0.3", "0.1 + 0.2") == 1


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "9 ** 9 ** 9",
        "2 ** 0.5",
        "(" * 150 + "1" + ")" * 49,
        "-" * 199 + "1",
        "1 if 1 else 2",
        "[1]",
        "'7'",
        "a",
        "1e99999",
        "1e999999999999",
        "1E-999999999999",
        "7 % 3",
        "1" * 201,
        "lambda: 1",
        "",
        "1j",
        "True",
        "\x00",
    ],
)
def test_anything_but_plain_arithmetic_has_no_value(text):
    started = time.process_time()
    with pytest.raises((ValueError, ArithmeticError)):
        arithmetic(text)
    assert docmath_value(text) in (0, True)
    assert time.process_time() - started < 1


@given(st.text(max_size=80))
def test_any_text_has_a_value(text):
    value = docmath_value(text)
    assert isinstance(value, bool | Fraction)


@given(st.integers(-(10**12), 10**12).filter(bool), st.integers(0, 6))
def test_powers_of_ten_are_forgiven_exactly(number, power):
    assert docmath_match(str(number * 10**power), str(number)) == 1
