"""The reward of whole responses: form, reasoning, and that nothing is earned without an answer."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import InputError
from stages.common.records import QAPair
from stages.rewards.hybrid import MAX_EXTRA_WORDS, reward, without_question


def _pair(kind: str, answer: str | list[str], question: str = "Which one?", **proof: str) -> QAPair:
    return QAPair(
        id="x-1",
        task_type="multi_hop",
        question=question,
        answer=answer,
        answer_kind=kind,
        choices=["Rome", "Paris", "Bonn", "Oslo"] if kind == "letter" else [],
        evidence=[],
        proof=proof,
        generator="test",
        seed=0,
    )


@pytest.mark.parametrize(
    ("pair", "response", "score"),
    [
        (_pair("text", "Paris"), "Paris", 1),
        (_pair("text", "Paris"), "First Rome, then... Therefore, the answer is (Paris).", 1),
        (_pair("text", "Rome"), "First Rome, then... Therefore, the answer is (Paris).", 0),
        (_pair("text", "Paris"), "<think>Rome?</think>\n\nParis", 1),
        (_pair("text", "Rome"), "<think>Rome?</think>\n\nParis", 0),
        (_pair("text", "Rome"), "<think>It must be Rome", 0),
        (_pair("number", "42"), "**42**", 1),
        (_pair("number", "42"), "40 + 2 gives a sum. The answer is 42.", 1),
        (_pair("number", "512", "Sales in 2023?"), "Sales in 2023 were $512 million.", 1),
        (_pair("letter", "B"), "The correct answer is (B)", 1),
        (_pair("letter", "B"), "Therefore, the answer is (B) Paris", 1),
        (_pair("letter", "B"), "A. Rome\nB. Paris\nC. Bonn\nD. Oslo", 0),
        (_pair("set", ["Rome", "Oslo"]), "The answer is Oslo; Rome.", 1),
    ],
)
def test_rewards(pair: QAPair, response: str, score: float) -> None:
    assert reward(pair, response) == score


def test_a_sequence_is_taken_as_it_is_but_for_reasoning_and_outer_blanks() -> None:
    pair = _pair("sequence", "q7Xthe answer is **bold**.", prefix="q7X")
    assert reward(pair, "q7Xthe answer is **bold**.") == 1
    assert reward(pair, "<think>q7X first</think>\nq7Xthe answer is **bold**.\n") == 1
    assert reward(pair, "the answer is **bold**.") == 0
    assert reward(pair, "Sure! q7Xthe answer is **bold**.") == 0


def test_the_proofs_prefix_is_the_one_that_counts() -> None:
    # Without it the prefix would be read off the gold as "q7XHello".
    pair = _pair("sequence", "q7XHello there", prefix="q7X")
    assert 0 < reward(pair, "q7XHallo there") < 1


def test_a_text_answer_that_copies_the_documents_earns_nothing() -> None:
    pair = _pair("text", "Paris")
    filler = "word " * MAX_EXTRA_WORDS
    assert reward(pair, filler + "Paris") == 1
    assert reward(pair, filler + "word Paris") == 0


def test_a_repeated_question_is_cut_out_before_scoring() -> None:
    assert without_question("Is it  ROME or Paris? Paris", "Is it Rome or Paris?") == "Paris"
    question = "Is it Rome or Paris?"
    assert reward(_pair("text", "Rome", question), question) == 0
    assert reward(_pair("text", "Rome", question), f"{question} Rome") == 1
    assert reward(_pair("number", "5", "Which has rank 5?"), "Which has rank 5?") == 0


def test_an_answer_that_does_not_fit_its_kind_is_an_error() -> None:
    with pytest.raises(InputError, match="x-1"):
        reward(_pair("text", ["Paris"]), "Paris")
    with pytest.raises(InputError, match="needs a list"):
        reward(_pair("set", "Paris"), "Paris")


def _golds() -> st.SearchStrategy[QAPair]:
    word = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
    number = st.integers(-(10**9), 10**9)
    question = st.builds("Between {} and {}, which of {} is it?".format, word, word, number)
    return st.one_of(
        st.builds(_pair, st.just("text"), word, question),
        st.builds(_pair, st.just("number"), number.map(str), question),
        st.builds(_pair, st.just("letter"), st.sampled_from("ABCD"), question),
        st.builds(_pair, st.just("sequence"), word.map("k4T9 ".__add__), question),
        st.builds(_pair, st.just("set"), st.lists(word, min_size=1, max_size=4), question),
    )


@given(_golds())
def test_no_kind_rewards_an_answer_that_says_nothing(pair: QAPair) -> None:
    hacks = [
        "",
        " \n",
        "...",
        "**",
        "()",
        "the answer is",
        "The answer is ().",
        "<think></think>",
        f"<think>{pair.answer}",  # reasoning that was cut off
        f"<think>{pair.answer}</think>",  # an answer only in the reasoning
        pair.question,
        f"{pair.question}\n{pair.question}",
    ]
    for response in hacks:
        assert reward(pair, response) == 0, response


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(["ABCD", "A B C D", "A, B, C, D", "(A) (B) (C) (D)", "A\nB\nC\nD", "A. Rome\nB. Paris", "A or B"]),
    st.sampled_from(["{}", "The answer is {}", "Answer: {}.", "The correct answer is ({})", "Options:\n{}"]),
)
def test_listing_several_letters_earns_nothing(gold: str, dump: str, form: str) -> None:
    assert reward(_pair("letter", gold), form.format(dump)) == 0


@given(
    st.integers(-(10**9), 10**9),
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=4),
    st.sampled_from([" ", ", ", "\n", "; ", " or ", " and ", "/"]),
    st.randoms(use_true_random=False),
)
def test_a_list_of_different_numbers_earns_nothing(
    gold: int, others: list[int], separator: str, chance: random.Random
) -> None:
    values = [gold, *(value for value in others if value != gold), gold + 1]
    chance.shuffle(values)
    assert reward(_pair("number", str(gold)), separator.join(map(str, values))) == 0


@given(_golds(), st.text(max_size=200))
def test_any_response_scores_between_zero_and_one(pair: QAPair, response: str) -> None:
    assert 0 <= reward(pair, response) <= 1


@given(_golds())
def test_the_gold_answer_itself_is_rewarded(pair: QAPair) -> None:
    answer = "; ".join(pair.answer) if isinstance(pair.answer, list) else pair.answer
    if any(answer.lower() == article for article in ("a", "an", "the")) or {"a", "an", "the"} & {
        item.lower() for item in pair.answer
    }:
        return  # nothing is left of it after normalising: it can never be scored
    assert reward(pair, answer) == 1
