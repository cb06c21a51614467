"""Each scoring rule, case by case; the traps are those of public benchmarks' scorers."""

from __future__ import annotations

import difflib
import time

import pytest

from stages.rewards.rules import (
    cover_exact_match,
    multiple_choice,
    normalise,
    numbers_in,
    numeric_match,
    sequence_match_ratio,
    set_f1,
)

# --- cover exact match -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("Paris", "Paris", 1),
        ("It is Paris, of course.", "paris", 1),
        ("The Hague", "hague", 1),  # articles go
        ("U.S.A.", "usa", 1),  # punctuation is deleted, not replaced
        ("New   York\nCity", "new york city", 1),
        ("York", "New York", 0),  # the loose variant would reward a fragment
        ("London", "Paris", 0),
        ("", "Paris", 0),
        ("Paris", "", 0),
        ("", "", 0),
        ("the", "a", 0),  # nothing is left of either
        ("...", "!", 0),
        ("notable", "no", 1),  # substring, as the paper's rule has it
    ],
)
def test_cover_exact_match(prediction: str, gold: str, score: float) -> None:
    assert cover_exact_match(prediction, gold) == score


def test_normalise_lowers_deletes_punctuation_and_articles_and_collapses_blanks() -> None:
    assert normalise("  The Cat's  (a) pyjamas, an owl! ") == "cats pyjamas owl"


# --- multiple choice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prediction",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B)",
        "[B]",
        " B \n",
        "**B**",
        "B. Paris",
        "(B) Paris",
        "B: Paris",
        "B\nbecause the text says so",
        "B. George A. Smith",
        "Option B",
        "Answer: B",
        "The answer is B",
        "The answer is B because A is wrong",
        "The answer is B. A is wrong.",
        "The correct answer is (B). (A) is wrong.",
        "The answer is (B) A dog",
        "The correct answer is (B)",
        "**The correct answer is (B).**",
        "(A) is wrong and so is (C). The correct answer is (B)",
        "The correct option is B. Therefore, the answer is (B).",
    ],
)
def test_a_letter_is_read_in_its_usual_forms(prediction: str) -> None:
    assert multiple_choice(prediction, "B") == 1
    assert [multiple_choice(prediction, letter) for letter in "ACD"] == [0, 0, 0]


@pytest.mark.parametrize(
    "prediction",
    [
        "",
        " ",
        "ABCD",
        "A B C D",
        "A, B, C, D",
        "A\nB\nC\nD",
        "A\n\nB",
        "A. Rome\nB. Paris\nC. Bonn\nD. Oslo",
        "A. Rome B. Paris C. Bonn D. Oslo",
        "(A) Rome (B) Paris (C) Bonn",
        "A or B",
        "B and C",
        "(A) or (B)",
        "The answer is A or B",
        "The answer is (A), (B)",
        "The answer is A. The answer is B.",
        "Answer: A B C D.",
        "Answer: A. Rome\nB. Paris",
        "A dog barked",
        "The answer is a dog",
        "Because of the rain",
        "Paris",
        "E=mc2",
    ],
)
def test_dumps_hedges_and_words_name_no_letter(prediction: str) -> None:
    assert [multiple_choice(prediction, letter) for letter in "ABCD"] == [0, 0, 0, 0]


@pytest.mark.parametrize("filler", ["\n", " ", "A. ", "the answer is ", "(", "1,", "-"])
def test_every_rule_takes_bounded_time_on_a_very_long_response(filler: str) -> None:
    response = "x" + filler * (400_000 // len(filler)) + "x"
    started = time.process_time()
    assert multiple_choice(response, "B") == 0
    assert numeric_match(response, "7") == 0
    assert cover_exact_match(response, "Paris") == 0
    assert set_f1(response, ["Paris"]) == 0
    assert time.process_time() - started < 10


def test_the_gold_letter_may_stand_in_brackets() -> None:
    assert multiple_choice("B", "(B)") == 1
    assert multiple_choice("B", "b") == 1
    assert multiple_choice("B", "") == 0
    assert multiple_choice("B", "Paris") == 0


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("42", "42"),
        ("42.", "42"),
        ("42.0", "42"),
        ("1,234,567", "1234567"),
        ("$1,234.50", "1234.5"),
        ("€ 7", "7"),
        ("12 %", "12"),
        ("12%", "12%"),
        ("643,801 sq km", "643801"),
        ("5km", "5"),
        ("-5", "-5"),
        ("−5", "-5"),  # U+2212
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("minus 5", "-5"),
        (".5", "0.5"),
        ("1e5", "100000"),
        ("3 + 4 = 7", "7"),
        ("x ≈ 7", "7"),
        ("seven", "7"),
        ("42, that is 42", "42"),  # said twice
        ("5 million", "5000000"),
        ("5 million", "5"),  # a table "in millions"
        ("5", "5 million"),
        ("3.2bn", "3,200 million"),
        ("0.30000000000000004", "0.3"),  # float rounding
        ("(42)", "42"),
    ],
)
def test_equal_numbers_match(prediction: str, gold: str) -> None:
    assert numeric_match(prediction, gold) == 1


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("", "42"),
        ("none", "42"),
        ("42", ""),
        ("-5", "5"),  # DocMath's scorer ignores the sign
        ("5", "-5"),
        ("12", "1200"),  # and powers of ten
        ("0.12", "12%"),
        ("0.0001", "0.0009"),  # and what vanishes in rounding up
        ("5 million", "5 billion"),
        ("1234567891", "1234567890"),  # whole numbers exactly
        ("42.1", "42"),
        ("41 42 43", "42"),
        ("41 or 42", "42"),
        ("40-44", "42"),
        ("42", "41 or 42"),
        ("1,23", "123"),
        ("1.2.3", "1.2"),
        ("Q42", "42"),
        ("42-K", "42"),
        ("1/2", "0.5"),
        ("9" * 5_000, "9"),
        ("no one", "1"),
    ],
)
def test_other_numbers_and_dumps_do_not(prediction: str, gold: str) -> None:
    assert numeric_match(prediction, gold) == 0


def test_numbers_of_the_question_are_set_aside_when_another_is_given() -> None:
    named = numbers_in("What were the sales in 2023?")
    assert numeric_match("Sales in 2023 were 512", "512") == 0
    assert numeric_match("Sales in 2023 were 512", "512", named) == 1
    assert numeric_match("2023", "2023", named) == 1  # alone it is the answer
    assert numeric_match("Sales in 2023 were 512 or 513", "512", named) == 0


# --- sequences -------------------------------------------------------------------------------------------------------


def test_the_prefix_must_come_first_and_is_not_scored() -> None:
    gold = "aB3dE5gH7k# Ode to rain"
    assert sequence_match_ratio(gold, gold, "aB3dE5gH7k") == 1
    assert sequence_match_ratio("# Ode to rain", gold, "aB3dE5gH7k") == 0
    assert sequence_match_ratio(" " + gold, gold, "aB3dE5gH7k") == 0
    assert sequence_match_ratio("aB3dE5gH7k# Ode to snow", gold, "aB3dE5gH7k") == pytest.approx(
        difflib.SequenceMatcher(None, "# Ode to snow", "# Ode to rain").ratio()
    )
    assert sequence_match_ratio("aB3dE5gH7k", gold, "aB3dE5gH7k") == 0


def test_without_a_given_prefix_it_is_the_golds_leading_letters_and_digits() -> None:
    assert sequence_match_ratio("abc123 rain", "abc123 snow") == pytest.approx(
        difflib.SequenceMatcher(None, " rain", " snow").ratio()
    )
    assert sequence_match_ratio("abd123 snow", "abc123 snow") == 0


def test_an_empty_side_scores_nothing() -> None:
    assert sequence_match_ratio("", "abc") == 0
    assert sequence_match_ratio("abc", "") == 0
    assert sequence_match_ratio("", "") == 0


def test_the_argument_order_is_the_benchmarks() -> None:
    response, gold = "x: tide", "x: diet"
    assert sequence_match_ratio(response, gold, "x") == difflib.SequenceMatcher(None, ": tide", ": diet").ratio()


def test_a_very_long_response_takes_bounded_time_and_gains_nothing() -> None:
    gold = "k9: " + " ".join(f"w{index}" for index in range(300))
    started = time.process_time()
    long = sequence_match_ratio(gold + "\n" + "".join(chr(0x4E00 + i % 5000) for i in range(400_000)), gold)
    assert time.process_time() - started < 20
    assert long < 0.02


# --- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("Rome; Paris", ["Paris", "Rome"], 1),
        ("Rome, Paris", ["Paris", "Rome"], 1),
        ("- Rome\n- Paris", ["Paris", "Rome"], 1),
        ("1. Rome\n2. Paris", ["Paris", "Rome"], 1),
        ("[Rome, Paris]", ["Paris", "Rome"], 1),
        ("Rome", ["Paris", "Rome"], 2 / 3),
        ("Rome; Oslo", ["Paris", "Rome"], 0.5),
        ("Rome; Rome; Rome", ["Rome"], 1),
        ("Smith, John; Doe, Ann", ["Smith, John", "Doe, Ann"], 1),
        ("", ["Rome"], 0),
        ("Oslo", ["Rome"], 0),
        ("", [], 0),
        ("[]", [], 1),
        ("none", [], 1),
        ("Rome", [], 0),
    ],
)
def test_set_f1(prediction: str, gold: list[str], score: float) -> None:
    assert set_f1(prediction, gold) == pytest.approx(score)
