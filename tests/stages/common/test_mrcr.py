"""Turn recall: turns are found, requests are ambiguous but for their ordinal, answers are right and short enough."""

import random
import re

import pytest

from stages.common.generators.mrcr import Turn, make_recall, ordinal, parse_turns

TURNS = [
    Turn("Ann", "we should buy red apples"),
    Turn("Bob", "apples are too expensive now"),
    Turn("Ann", "then let us buy pears"),
    Turn("Bob", "pears are fine with me"),
    Turn("Ann", "or maybe some green apples"),
    Turn("Bob", "ok"),
]


def count_bytes(text):
    return len(text.encode())


def recall(turns=TURNS, tokens=10_000, answer=100, seed=0):
    return make_recall(turns, tokens, answer, random.Random(seed), count_bytes)


def test_turns_of_both_forms_are_parsed_without_headings_and_empty_turns():
    numbered = "# Meeting A: first\n\n[0] Grad G: Time.\n[1] Grad C:\n[2] Grad G: Are you: Fey?\n[3] Grad C: I am.\n"
    assert parse_turns(numbered) == [Turn("Grad G", "Time."), Turn("Grad G", "Are you: Fey?"), Turn("Grad C", "I am.")]
    named = "# Chat\n\nuser: Hi\nassistant: Hello\n  there\nuser: Price: 5\n\nPrice: 7\nassistant: Bye"
    assert parse_turns(named) == [
        Turn("user", "Hi"),
        Turn("assistant", "Hello there"),
        Turn("user", "Price: 5"),
        Turn("assistant", "Bye"),
    ]


@pytest.mark.parametrize("text", ["", "no turns here", "only: one turn", "12:30 noon\n12:30 again"])
def test_a_text_without_a_conversation_has_no_turns(text):
    assert parse_turns(text) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_question_names_one_turn_of_several_by_its_ordinal(seed):
    task = recall(seed=seed)
    match = re.fullmatch(
        r"Prepend (\w{10}) to the (\d)(?:st|nd|rd|th) turn (?:of (\w+)|in which (\w+) says the word \"(\w+)\"): "
        r"write \1 directly followed by what (?:\3|\4) says there, word for word\.",
        task.question,
    )
    assert match, task.question
    prefix, number, speaker, word_speaker, word = match.groups()
    fitting = [
        turn
        for turn in TURNS
        if turn.speaker == (speaker or word_speaker) and (word is None or word in turn.text.lower())
    ]
    assert 2 <= len(fitting) <= 8
    turn = fitting[int(number) - 1]
    assert task.gold == prefix + turn.text
    assert task.position == task.context.index(turn.line) / len(task.context)


def test_turns_of_one_or_two_words_and_tool_output_are_never_asked_for():
    turns = [Turn("Ann", "yes"), Turn("Ann", "no no"), Turn("Ann", '{"a": 1} is the result')]
    assert all(recall(turns, seed=seed) is None for seed in range(10))


def test_answers_have_at_most_the_tokens_allowed():
    # 10 for the prefix: "apples are too expensive now" (28) is too long, the others have at most 26.
    golds = {recall(answer=36, seed=seed).turn for seed in range(40)}
    assert golds == {turn.text for turn in TURNS if 10 < len(turn.text) <= 26}
    assert recall(answer=12) is None


def test_the_last_turn_is_cut_at_the_token_limit_and_not_asked_for():
    lines = [turn.line for turn in TURNS]
    limit = len("\n".join(lines[:4])) + 12
    for seed in range(20):
        task = recall(tokens=limit, seed=seed)
        assert task.context == "\n".join(lines[:4]) + "\nAnn: or may"
        assert task.turn != TURNS[4].text


def test_a_request_that_fits_one_turn_or_more_than_eight_is_not_asked():
    assert recall([Turn("Ann", "one single turn here"), Turn("Bob", "another single turn")]) is None
    many = [Turn("Ann", f"word{chr(97 + i)} number is here") for i in range(9)]
    assert recall(many) is None  # nine turns of Ann, nine with "number" and "here"


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")]
)
def test_ordinals(number, text):
    assert ordinal(number) == text


def test_no_turns_no_task():
    assert recall([]) is None


def test_equal_seeds_give_equal_tasks():
    assert recall(seed=3) == recall(seed=3)
    assert recall(seed=3).prefix != recall(seed=4).prefix
