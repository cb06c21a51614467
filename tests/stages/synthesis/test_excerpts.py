"""Excerpts: what must be whole is whole, the budget holds, ends lie on boundaries."""

import random
import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.synthesis.excerpts import Excerpt, cut, excerpt_around, excerpts_over


def words(text):
    """Token offsets of a tokenizer for which every run of non-blanks is one token."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def around(text, part, budget, limit=10_000, seed=0):
    start = text.index(part)
    return excerpt_around(text, (start, start + len(part)), budget, limit, words, random.Random(seed))


def shown(text, excerpt):
    return text[excerpt.start : excerpt.end]


COUNTRY = """# Chad

## Geography

### Coastline

none at all

### Terrain

broad plains

### Elevation

543 m
"""


def test_the_heading_above_comes_first():
    assert shown(COUNTRY, around(COUNTRY, "broad plains", 4)) == "### Terrain\n\nbroad plains"


def test_an_excerpt_grows_by_whole_lines_to_its_budget():
    for seed in range(20):
        found = around(COUNTRY, "broad plains", 9, seed=seed)
        assert found.tokens <= 9
        lines = shown(COUNTRY, found).splitlines()
        assert all(line in COUNTRY.splitlines() for line in lines)


def test_neither_a_value_without_its_heading_nor_a_heading_without_a_value_is_left_at_an_end():
    for seed in range(20):
        text = shown(COUNTRY, around(COUNTRY, "broad plains", 8, seed=seed))
        assert not text.startswith("none at all")
        assert not text.endswith("### Elevation")


def test_a_core_beyond_the_limit_is_refused():
    assert around("one two three four", "one two three four", 2, limit=3) is None
    assert around("one two three four", "one two three", 2, limit=3) == Excerpt(0, 13, 3)


def test_a_core_inside_a_long_line_is_widened_to_sentences():
    sentences = [f"Sentence number {n} has exactly these seven words. " for n in range(400)]
    text = "".join(sentences)
    found = around(text, "number 200 has", 40)
    assert "number 200 has" in shown(text, found)
    assert shown(text, found).startswith("Sentence")
    assert shown(text, found).endswith(".")
    assert 20 <= found.tokens <= 40


def test_a_gigantic_line_without_blanks_is_cut_by_characters():
    text = "x" * 50_000 + " needle " + "y" * 50_000
    found = around(text, "needle", 5, limit=5)
    assert "needle" in shown(text, found)
    assert found.end - found.start < 2_000


def test_a_core_as_large_as_the_document_is_bounded_work():
    assert around("x " * 1_000_000, "x " * 1_000_000, 10, limit=10) is None


def test_boundaries_cover_the_range_without_gaps():
    text = "short\n" + "word " * 100 + "\n" + "z" * 1_000
    boundaries = cut(text, 0, len(text))
    assert boundaries[0] == 0
    assert boundaries[-1] == len(text)
    assert all(0 < b - a <= 240 for a, b in pairwise(boundaries))


@settings(max_examples=200, deadline=None)
@given(st.text("ab #.\n", min_size=1, max_size=600), st.data())
def test_the_core_is_always_inside_and_the_limit_always_holds(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start, len(text)))
    limit = data.draw(st.integers(1, 60))
    found = excerpt_around(text, (start, end), data.draw(st.integers(0, 60)), limit, words, random.Random(1))
    if found is None:
        assert len(words(text[start:end])) > limit
    else:
        assert found.start <= start
        assert end <= found.end
        # A cut inside a word makes one more token at each end.
        assert len(words(text[found.start : found.end])) <= limit + 2


def test_near_spans_share_an_excerpt_and_far_ones_do_not():
    text = "head line\n" + "filler words here\n" * 100 + "tail line\n"
    near = excerpts_over(text, [(0, 4), (5, 9)], 10, 50, words, random.Random(0))
    assert len(near) == 1
    far = excerpts_over(text, [(0, 9), (text.index("tail"), len(text) - 1)], 10, 50, words, random.Random(0))
    assert len(far) == 2
    assert shown(text, far[0]).startswith("head line")
    assert shown(text, far[1]).endswith("tail line")
    assert sum(part.tokens for part in far) <= 50


def test_far_spans_that_exceed_the_limit_together_are_refused():
    text = "one two three\n" + "filler words here\n" * 100 + "four five six\n"
    assert excerpts_over(text, [(0, 13), (text.index("four"), len(text) - 1)], 2, 5, words, random.Random(0)) is None
