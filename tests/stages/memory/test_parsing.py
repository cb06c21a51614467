"""What is taken out of a turn's response, and what is not."""

import pytest

from stages.memory.parsing import parse_turn


@pytest.mark.parametrize(
    ("response", "memory", "plan"),
    [
        ("<memory>a</memory><plan>b</plan>", "a", "b"),
        ("  <memory>\n a\nb </memory>\n\n<plan> c </plan> done", "a\nb", "c"),
        ("<MEMORY>a</Memory >< plan >b</ PLAN>", "a", "b"),
        ("I see <that>. Now:\n<memory>a</memory><plan>b</plan>", "a", "b"),
        ("<think>maybe <memory>no</memory></think><memory>a</memory><plan>b</plan>", "a", "b"),
        ("reasoning without opening</think> <memory>a</memory>", "a", ""),
        ("<memory>a</memory>", "a", ""),
        ("<memory>a</memory><plan>b", "a", "b"),
        ("<memory>a, b", "a, b", ""),
        ("<memory>a<plan>b</plan>", "a", "b"),
        ("<memory>a<plan>b</plan></memory>", "a", "b"),
        ("<memory>a <memory>b</memory> c</memory><plan>d</plan>", "a b c", "d"),
        ("I write <memory> as told. <memory>a</memory><plan>b</plan>", "a", "b"),
        ("<memory>old</memory> better: <memory>new</memory><plan>b</plan>", "new", "b"),
        ("<memory>a</memory> <memory></memory><plan>b</plan>", "a", "b"),
        ("<plan>first</plan><memory>a</memory><plan>b</plan>", "a", "b"),
        ("<memory>a</memory><plan></plan>", "a", ""),
        ("<memory>a</plan></memory><plan>b</plan>", "a", "b"),
        ("<memory>x < y and <b>bold</b></memory><plan>p</plan>", "x < y and <b>bold</b>", "p"),
    ],
)
def test_memory_and_plan_are_found(response, memory, plan):
    assert parse_turn(response) == (memory, plan)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "no tags at all",
        "a</memory><plan>b</plan>",
        "<plan>b</plan>",
        "<memory></memory><plan>b</plan>",
        "<memory> \n </memory>",
        "<memory><memory></memory></memory>",
        "<memory>",
        "<think>still thinking <memory>a</memory><plan>b</plan>",
        "<memory>a</memory></think>",
        "<memo>a</memo>",
    ],
)
def test_a_response_without_a_memory_is_a_failure(response):
    assert parse_turn(response) is None


def test_many_tags_take_linear_time():
    response = "<memory>" * 50_000 + "a" + "</memory>" * 50_000
    assert parse_turn(response) == ("a", "")
