"""The published scoring rules, trap by trap, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.scoring import (
    babilong_label,
    bfcl_memory,
    covers,
    exact_match,
    hotpot_f1,
    integer_share,
    longbench_v2_letter,
    mmlu_pro_letter,
    rouge_l,
    token_f1,
    true_or_false,
)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Oslo", 1.0),
        ("Therefore, the answer is (Oslo).", 1.0),
        ("It is **the Oslo**!", 1.0),
        ("Christiania", 1.0),  # the second gold answer
        ("Bergen, the answer is Lima", 0.0),
        ("", 0.0),
        ("...", 0.0),
        ("Os", 0.0),  # prediction in gold is the loose form, which pays for fragments
        ("Which city is Oslo or what is it?", 0.0),  # an echo of the question
        ("word " * 120 + "Oslo", 0.0),  # a copy of the context
    ],
)
def test_cover_exact_match_is_the_strict_form(response, score):
    assert covers(response, ["Oslo", "Christiania"], "Which city is Oslo or what is it?") == score


def test_exact_match_and_f1_normalise_as_squad_does():
    assert exact_match("The  Oslo!", ["oslo"]) == 1.0
    assert exact_match("Oslo in Norway", ["Oslo"]) == 0.0
    assert token_f1("the city of Oslo", ["Oslo"]) == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert token_f1("red red blue", ["red blue blue"]) == pytest.approx(2 / 3)  # bags, not sets
    assert token_f1("Lima", ["Oslo", "Lima"]) == 1.0
    assert token_f1("", ["Oslo"]) == token_f1("the", ["Oslo"]) == 0.0


def test_yes_and_no_must_match_exactly_in_hotpotqa():
    assert hotpot_f1("yes it is", ["yes"]) == 0.0
    assert hotpot_f1("Yes.", ["yes"]) == 1.0
    assert hotpot_f1("no", ["no way"]) == 0.0
    assert hotpot_f1("Medal of Valor", ["Medal of Honor"]) == pytest.approx(2 / 3)


def test_rouge_l_is_the_longest_common_subsequence():
    # "the cat mat" is common: 3 of 5 and 3 of 4 words.
    assert rouge_l("the cat on a mat", ["the cat sat mat"]) == pytest.approx(2 * 3 / (5 + 4))
    assert rouge_l("", ["x"]) == rouge_l("y", ["x"]) == 0.0


@pytest.mark.parametrize(
    ("response", "gold", "score"),
    [
        ("Paragraph 3", "Paragraph 3", 1.0),
        ("Paragraph 3 or paragraph 4", "Paragraph 3", 0.5),
        ("3 3 4", "3", 2 / 3),
        ("Paragraph 13", "Paragraph 3", 0.0),
        ("three", "3", 0.0),
    ],
)
def test_extra_integers_cost(response, gold, score):
    assert integer_share(response, gold) == pytest.approx(score)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("The correct answer is (B)", 1.0),
        ("The **correct answer is (B)**", 1.0),
        ("The correct answer is B.", 1.0),
        ("The correct answer is (C). No: The correct answer is (B)", 0.0),  # the first one counts
        ("The correct answer is A, or The correct answer is (B)", 1.0),  # brackets first
        ("the correct answer is (B)", 0.0),  # case-sensitive
        ("(B)", 0.0),
        ("", 0.0),
    ],
)
def test_longbench_v2_reads_one_sentence_only(response, score):
    assert longbench_v2_letter(response, "B") == score


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("the answer is (J)", 1.0),
        ("the answer is J.", 1.0),
        ("Answer: A\nAnswer: J", 1.0),  # the last
        ("I take A, no, J", 1.0),  # the last lone capital
        ("the answer is (A). J", 0.0),
        ("JJ", 0.0),
        ("", 0.0),
    ],
)
def test_mmlu_pro_falls_back_twice(response, score):
    assert mmlu_pro_letter(response, "J") == score


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Kitchen", 1.0),
        ("The kitchen. Not the garden.", 1.0),  # the first sentence alone
        ("The kitchen or the garden", 0.0),
        ("The office kitchen", 1.0),  # the question names the office
        ("", 0.0),
    ],
)
def test_babilong_takes_the_only_label_of_the_first_sentence(response, score):
    labels = ["kitchen", "garden", "office"]
    assert babilong_label(response, "kitchen", labels, "Where was Mary before the office?") == score


def test_babilong_lists_must_be_exactly_the_set():
    labels = ["apple", "milk", "football"]
    assert babilong_label("milk and an apple", "apple,milk", labels, "What does Mary carry?") == 1.0
    assert babilong_label("milk", "apple,milk", labels, "What does Mary carry?") == 0.0


def test_bfcl_takes_whole_words_after_its_own_normalising():
    assert bfcl_memory("It is 08:00 AM.", ["08:00 AM"]) == 1.0
    assert bfcl_memory("Michaela", ["Michael"]) == 0.0
    assert bfcl_memory("e-mail (him)", ["email him"]) == 1.0
    assert bfcl_memory("", ["x"]) == bfcl_memory("x", [""]) == 0.0


def test_the_last_verdict_counts():
    assert true_or_false("FALSE, I thought.\nNo: true", "true") == 1.0
    assert true_or_false("TRUE or FALSE", "true") == true_or_false("TRUE or FALSE", "false") == 0.0
    assert true_or_false("untrue", "true") == 0.0


@given(st.text(max_size=200))
def test_no_text_raises_and_blanks_earn_nothing(text):
    question = "Which city lies at the fjord?"
    scores = [
        covers(text, ["Oslo"], question), exact_match(text, ["Oslo"]), token_f1(text, ["Oslo"]), rouge_l(text, ["Oslo"]),
        integer_share(text, "7"), longbench_v2_letter(text, "B"), mmlu_pro_letter(text, "B"),
        babilong_label(text, "kitchen", ["kitchen"], question), bfcl_memory(text, ["Oslo"]), true_or_false(text, "true"),
    ]  # fmt: skip
    assert all(0.0 <= score <= 1.0 for score in scores)
    if not text.strip():
        assert not any(scores)
