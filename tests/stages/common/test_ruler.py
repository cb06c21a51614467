"""The needle generator: exact lengths, seeded depths, needles between sentences, the published score."""

import random

import pytest

from stages.common.generators.ruler import DEPTHS, make_needle, needle_sentence, share_contained

HAY = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. " * 40


def count_bytes(text):
    return len(text.encode())


def count_words(text):
    return len(text.split())


def make(depth=0.5, tokens=1000, hay=HAY, count=count_bytes, seed=1):
    return make_needle(hay, tokens, depth, random.Random(seed), count)


@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("tokens", [200, 777, 2000])
def test_the_context_has_exactly_the_tokens_asked_for(depth, tokens):
    task = make(depth, tokens)
    # At the very end one character more may need a blank before the needle: two bytes, where one was left.
    assert tokens - count_bytes(task.context) in ((0,) if depth < 1 else (0, 1))
    assert count_words(make(depth, tokens // 10, count=count_words).context) == tokens // 10


def test_the_needle_is_in_the_context_once_with_a_seven_digit_value():
    task = make()
    assert task.context.count(needle_sentence(task.key, task.value)) == 1
    assert len(task.value) == 7
    assert task.value.isdecimal()
    assert task.question == f"What is the special magic number for {task.key} mentioned in the provided text?"
    adjective, noun = task.key.split("-")
    assert adjective.isalpha()
    assert noun.isalpha()


@pytest.mark.parametrize("depth", DEPTHS[:-1])  # at depth 1 it follows the cut end of the hay
def test_the_needle_stands_between_sentences_near_its_depth(depth):
    task = make(depth, 2000)
    sentence = needle_sentence(task.key, task.value)
    before, after = task.context.split(sentence)
    assert not before.strip() or before.strip()[-1] == "."
    assert before == "" or before[-1] == " "
    assert after == "" or after.startswith(" ")
    assert task.position == len(before) / len(task.context)
    assert abs(task.position - depth) < 0.06


def test_without_sentences_the_needle_stands_between_words():
    task = make(0.5, 600, hay="word " * 1000)
    before, after = task.context.split(needle_sentence(task.key, task.value))
    assert before.endswith("word ")
    assert after.startswith(" word")


def test_without_words_the_needle_stands_anywhere():
    task = make(0.5, 600, hay="x" * 1000)
    assert needle_sentence(task.key, task.value) in task.context
    assert count_bytes(task.context) == 600


def test_a_short_hay_gives_a_short_context():
    task = make(0.0, 1000, hay="Short.")
    assert task.context == needle_sentence(task.key, task.value) + " Short."


def test_an_empty_hay_gives_the_needle_alone():
    task = make(0.5, 1000, hay="")
    assert task.context == needle_sentence(task.key, task.value)
    assert task.position == 0


def test_a_context_that_cannot_hold_the_needle_is_refused():
    with pytest.raises(ValueError, match="cannot hold the needle"):
        make(0.5, 20)


def test_equal_seeds_give_equal_tasks_and_others_differ():
    assert make(seed=4) == make(seed=4)
    assert make(seed=4).value != make(seed=5).value


def test_depths_are_forty_equal_steps():
    assert len(DEPTHS) == 40
    assert DEPTHS[0] == 0
    assert DEPTHS[-1] == 1


@pytest.mark.parametrize(
    ("prediction", "golds", "share"),
    [
        ("The number is 1234567.", ["1234567"], 1.0),
        ("1234567 and much else", ["1234567", "7654321"], 0.5),
        ("ABC-DEF", ["abc-def"], 1.0),
        ("1 234 567", ["1234567"], 0.0),
        ("", ["1234567"], 0.0),
    ],
)
def test_the_score_is_the_share_of_gold_strings_contained(prediction, golds, share):
    assert share_contained(prediction, golds) == share
