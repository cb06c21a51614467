from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.synthesis.quantities import parse_cell, parse_quantity, plain


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("6,734 km", "6734", "km"),
        ("$ 1,234", "1234", "dollars"),
        ("12.5%", "12.5", "%"),
        ("2,257 (2025)", "2257", ""),
        ("$722.912 billion (2024 est.)", "722.912", "billion dollars"),
        ("-$34.402 billion (2024 est.)", "-34.402", "billion dollars"),
        ("-20.1% (2023 est.)", "-20.1", "%"),
        ("5.1% of GDP (2022 est.)", "5.1", "% of GDP"),
        ("10.75 births/1,000 population (2025 est.)", "10.75", "births/1,000 population"),
        ("1.06 male(s)/female", "1.06", "male(s)/female"),
        ("394.653 million metric tonnes of CO2 (2023 est.)", "394.653", "million metric tonnes of CO2"),
        ("18.3% (male 2,526,772/female 2,369,425)", "18.3", "%"),
        ("407 (all directly elected)", "407", ""),
        ("1529 km", "1529", "km"),
        ("0 km", "0", "km"),
    ],
)
def test_a_value_is_read_with_its_unit(text, value, unit):
    found = parse_quantity(text)
    assert found is not None
    assert (plain(found.value), found.unit) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "32,606 km (2022) 3,448 km electrified",  # two numbers
        "5 July 1962",
        "6/12/2021",
        "2029",  # a year
        "18 years of age; universal",
        "36 45 N, 3 03 E",
        "2118 Kalorama Road NW, Washington, DC 20008",
        "05 Chemin Cheikh Bachir",
        "200 nm or to the edge of the continental margin",
        "1,23 km",
        "1,234,56",
        "3.4.5",
        "Mount Kosciuszko 2,228 m",
        "12 km (unclosed",
        "5-year term",
        "25th",
        "--5 km",
        "",
        "km",
    ],
)
def test_what_is_not_clearly_one_number_is_refused(text):
    assert parse_quantity(text) is None


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("(1,234)", "-1234", ""),
        ("$(1,234)", "-1234", "dollars"),
        ("EUR(1,234)", "-1234", "euros"),
        ("(C$ 5)", "-5", "Canadian dollars"),
        ("(4)%", "-4", "%"),
        ("(4%)", "-4", "%"),
        ("$89,074", "89074", "dollars"),
        (" 37.2% ", "37.2", "%"),
    ],
)
def test_brackets_in_a_cell_mean_a_negative_number(text, value, unit):
    found = parse_cell(text)
    assert found is not None
    assert (plain(found.value), found.unit) == (value, unit)


@pytest.mark.parametrize("text", ["—", "—%", "2024", "(1)(2)", "()", "(", "8 9", "(-5)", "n/a"])
def test_a_cell_without_a_number_has_none(text):
    assert parse_cell(text) is None


def test_plain_has_no_exponent_no_trailing_zeros_and_no_negative_zero():
    assert plain(Decimal("1E+3")) == "1000"
    assert plain(Decimal("12.500")) == "12.5"
    assert plain(Decimal("-0.00")) == "0"
    assert plain(Decimal("0.00000001")) == "0.00000001"


@given(
    st.integers(min_value=-(10**15), max_value=10**15),
    st.sampled_from(["", " km", " million dollars", "%", "% of GDP", " births/1,000 population"]),
    st.sampled_from(["", " (2023 est.)", " (all elected)"]),
)
def test_a_written_number_comes_back(number, unit, remark):
    if not unit and 1900 <= number <= 2100:
        return
    text = f"{number:,}{unit}{remark}"
    found = parse_quantity(text)
    assert found is not None
    assert found.value == number
    assert found.unit == unit.strip()
    assert text[found.start : found.end] == f"{number:,}{unit}"


@given(st.text(alphabet="0123456789,.$€¥%()-– kmGDPUSERAC/;:\u0660|\n", max_size=60))
def test_the_span_of_any_found_number_reads_the_same_again(text):
    """What `row_holds` relies on: the characters of a value alone say value and unit."""
    for parse in (parse_quantity, parse_cell):
        found = parse(text)
        if found is None:
            continue
        assert 0 <= found.start < found.end <= len(text)
        again = parse_cell(text[found.start : found.end])
        assert again is not None
        assert (again.value, again.unit) == (found.value, found.unit)


@pytest.mark.parametrize(
    "text", ["1," * 500_000, "(" * 1_000_000, "1 " + "a" * 1_000_000, "-" * 1_000_000, "9" * 10**6]
)
def test_a_megabyte_is_refused_at_once(text):
    start = time.perf_counter()
    assert parse_quantity(text) is None
    assert parse_cell(text) is None
    assert time.perf_counter() - start < 15
