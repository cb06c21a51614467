"""Properties of the four options, on random numbers and names."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from stages.common.records import AnswerKind, QAPair, TaskType
from stages.synthesis.multiple_choice_options import Deal, count_options, number_options, text_options, written
from stages.synthesis.multiple_choice_proofs import rederive_option, same_answer

numbers = st.integers(-(10**9), 10**9).filter(bool)


@given(numbers, st.integers(0, 4), st.lists(numbers, max_size=12), st.integers(0, 3), st.integers(0, 99))
def test_options_are_four_different_numbers_of_one_format_with_the_wanted_rank(digits, decimals, others, rank, seed):
    unit = Decimal(1).scaleb(-decimals)
    right = digits * unit
    wrong = number_options(right, decimals, [other * unit for other in others], rank, Random(seed))
    if wrong is None:
        return
    assert len(wrong) == 3
    assert sorted([right, *wrong]).index(right) == rank
    shown = [written(value, decimals) for value in (right, *wrong)]
    assert len(set(shown)) == 4
    assert not any(same_answer(shown[0], other) for other in shown[1:])
    assert {len(text.partition(".")[2]) for text in shown} == {decimals}
    assert all((value > 0) == (right > 0) for value in wrong)
    assert all(abs(right) / 6 <= abs(value) <= abs(right) * 6 for value in wrong)


@given(numbers.filter(lambda n: abs(n) > 200), st.integers(0, 3), st.integers(0, 99))
def test_a_number_of_three_digits_always_gets_options(digits, rank, seed):
    assert number_options(Decimal(digits if digits % 10 else digits + 1), 0, [], rank, Random(seed)) is not None


def test_other_figures_are_taken_before_invented_numbers():
    wrong = number_options(Decimal(500), 0, [Decimal(n) for n in (410, 620, 730, 9_000_000, 500)], 1, Random(1))
    assert sorted(wrong) == [410, 620, 730]


def test_shares_stay_below_a_hundred():
    wrong = number_options(Decimal("93.5"), 1, [Decimal(120)], 1, Random(2), Decimal(100))
    assert wrong is None or max(wrong) <= 100


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 3), st.integers(0, 99))
def test_counts_are_different_and_possible(right, more, rank, seed):
    high = right + more
    wrong = count_options(right, 0, high, rank, Random(seed))
    if wrong is None:
        assert right < rank or high - right < 3 - rank
        return
    assert sorted([right, *wrong]).index(right) == rank
    assert len({right, *wrong}) == 4
    assert all(0 <= value <= high for value in wrong)


def test_names_that_are_spelt_otherwise_or_hold_each_other_are_no_options():
    others = ["s. korea", "South Korea (Republic)", "Korea", "Peru", "peru", "Chile", "Mali"]
    wrong = text_options("South Korea", others, Random(3))
    assert wrong is not None
    assert set(wrong) <= {"Peru", "peru", "Chile", "Mali"}
    assert len({name.casefold() for name in wrong}) == 3
    assert text_options("Peru", ["peru", "PERU", "Chile"], Random(3)) is None


def test_letters_and_ranks_are_dealt_evenly_and_independently():
    deal = Deal(Random(5))
    dealt = Counter(deal() for _ in range(160))
    assert len(dealt) == 16
    assert set(dealt.values()) == {10}


def test_numbers_are_the_same_however_they_are_written():
    assert same_answer("1,250.0", "1250")
    assert not same_answer("1,250.0", "1250.1")
    assert not same_answer("12", "Twelve")
    assert same_answer("S. Korea", "South Korea")


def question(choices, inner):
    return QAPair(
        id="x",
        task_type=TaskType.MULTIPLE_CHOICE,
        question="?",
        answer="A",
        answer_kind=AnswerKind.LETTER,
        choices=choices,
        evidence=[],
        proof={"kind": "option", "of": inner},
        generator="test",
        seed=0,
    )


def test_two_options_that_say_the_answer_or_none_prove_nothing():
    def answer(qa, text_of):
        del text_of
        return str(qa.proof["is"])

    def letter(choices):
        return rederive_option(question(choices, {"kind": "any", "is": "7"}), lambda span: "", answer)

    assert letter(["5", "7", "8", "9"]) == "B"
    assert letter(["7", "7.0", "8", "9"]) is None
    assert letter(["1", "2", "3", "4"]) is None
    assert letter(["7", "8", "9"]) is None
    assert rederive_option(question(["7", "8", "9", "1"], {"kind": "option"}), lambda span: "", answer) is None
