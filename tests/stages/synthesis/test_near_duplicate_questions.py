"""Near-duplicates are found by prefix filtering exactly as by comparing all pairs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.synthesis.near_duplicates import THRESHOLD, similar_to_earlier
from stages.synthesis.text_words import TextWords, plain

words = st.sampled_from(
    ["alpha", "beta", "gamma", "delta", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
)
questions = st.lists(st.lists(words, min_size=1, max_size=14).map(" ".join), min_size=1, max_size=25)


def pairs_of(key):
    found = key.split()
    return {f"{a} {b}" for a, b in zip(found, [*found[1:], ""], strict=True)}


def by_all_pairs(keys):
    kept, repeats = [], {}
    for own, key in keys:
        mine = pairs_of(key)
        first = next(
            (other for other, theirs in kept if len(mine & theirs) >= THRESHOLD * len(mine | theirs)),
            None,
        )
        if first is None:
            kept.append((own, mine))
        else:
            repeats[own] = first
    return repeats


@settings(max_examples=200, deadline=None)
@given(questions)
def test_no_near_duplicate_is_missed_and_none_is_invented(texts):
    # Variants of the drawn texts, so that near-duplicates are common.
    variants = [*texts, *(f"{text} please" for text in texts), *(text.replace("one", "two") for text in texts)]
    keys = [(f"q{number}", text) for number, text in enumerate(variants)]
    assert similar_to_earlier(keys) == by_all_pairs(keys)


def test_one_word_of_a_short_question_makes_another_question():
    keys = [("a", "capital chad"), ("b", "capital mali"), ("c", "capital chad")]
    assert similar_to_earlier(keys) == {"c": "a"}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="aAbB .,-\n", max_size=60), st.text(alphabet="aAbB .,-\n", min_size=1, max_size=6))
def test_words_are_found_where_they_stand(text, phrase):
    wanted = plain(phrase)
    if not wanted:
        return
    found = TextWords(text).positions(wanted)
    assert (wanted in TextWords(text)) == bool(found)
    for position in found:
        assert plain(text[position:]).startswith(wanted)
    assert TextWords(text).positions(wanted, start=1) == [position for position in found if position >= 1]
    assert TextWords(text).positions(wanted, end=10) == [position for position in found if position < 10]
