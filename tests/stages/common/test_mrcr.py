"""Turn recall: turns are found, requests are ambiguous but for their ordinal, answers are right and short enough."""

import random
import re

import pytest

from stages.common.generators.mrcr import make_recall
from stages.common.turns import Turn


def said(speaker: str, text: str) -> Turn:
    """A turn whose place in a document does not matter."""
    return Turn(speaker, text, 0, 0, len(text))


TURNS = [
    said("Ann", "we should buy red apples"),
    said("Bob", "apples are too expensive now"),
    said("Ann", "then let us buy pears"),
    said("Bob", "pears are fine with me"),
    said("Ann", "or maybe some green apples"),
    said("Bob", "ok"),
]


def count_bytes(text):
    return len(text.encode())


def recall(turns=TURNS, tokens=10_000, answer=100, seed=0):
    return make_recall(turns, tokens, answer, random.Random(seed), count_bytes)


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
    turns = [said("Ann", "yes"), said("Ann", "no no"), said("Ann", '{"a": 1} is the result')]
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
    assert recall([said("Ann", "one single turn here"), said("Bob", "another single turn")]) is None
    many = [said("Ann", f"word{chr(97 + i)} number is here") for i in range(9)]
    assert recall(many) is None  # nine turns of Ann, nine with "number" and "here"


def test_no_turns_no_task():
    assert recall([]) is None


def test_equal_seeds_give_equal_tasks():
    assert recall(seed=3) == recall(seed=3)
    assert recall(seed=3).prefix != recall(seed=4).prefix


def test_turns_of_several_lines_are_one_line_of_the_transcript_and_empty_ones_are_left_out():
    turns = [said("Ann", "we should\n  buy apples"), said("Bob", ""), said("Ann", "then buy pears")]
    task = next(task for seed in range(20) if (task := recall(turns, seed=seed)) and task.turn.startswith("we"))
    assert task.context == "Ann: we should buy apples\nAnn: then buy pears"
    assert task.turn == "we should buy apples"
