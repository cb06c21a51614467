"""Turns of conversations in their three forms, with offsets into the document."""

import pytest

from stages.common.turns import opening, ordinal, parse_turns

MEETING = """# Meeting 7

[0] The Chair (Ann Lee (York, Lib.)): We will start with the budget today.
[1] Marketing:
[2] Designer: The yellow case: it was too expensive last time.
"""


def spoken(text: str) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in parse_turns(text)]


def test_numbered_turns_with_brackets_and_colons():
    turns = parse_turns(MEETING)
    assert [turn.speaker for turn in turns] == ["The Chair (Ann Lee (York, Lib.))", "Marketing", "Designer"]
    assert turns[1].text == ""
    assert turns[2].text == "The yellow case: it was too expensive last time."
    assert MEETING[turns[2].start : turns[2].end] == "[2] Designer: " + turns[2].text
    for turn in turns:
        assert MEETING[turn.text_start : turn.end] == turn.text


def test_roles_and_turns_of_several_lines():
    text = "# Session 1\n\nuser: Hello there.\nassistant: Two flights:\nDeparture: 14:00\n- cheap\n\n# Session 2\n\nuser: Bye\n"
    assert spoken(text) == [
        ("user", "Hello there."),
        ("assistant", "Two flights:\nDeparture: 14:00\n- cheap"),
        ("user", "Bye"),
    ]
    assert [turn.is_one_line for turn in parse_turns(text)] == [True, False, True]
    assert parse_turns(text)[1].line == "assistant: Two flights: Departure: 14:00 - cheap"


def test_names_must_speak_twice_and_empty_turns_are_kept():
    assert spoken("Ann: hello\nBob: \nAnn: well\nNote: not a speaker\nBob: yes\n") == [
        ("Ann", "hello"),
        ("Bob", ""),
        ("Ann", "well\nNote: not a speaker"),
        ("Bob", "yes"),
    ]


def test_a_line_after_a_blank_one_belongs_to_nobody():
    assert spoken("user: Hi\nassistant: Hello\n  there\nuser: Price: 5\n\nPrice: 7\nassistant: Bye") == [
        ("user", "Hi"),
        ("assistant", "Hello\n  there"),
        ("user", "Price: 5"),
        ("assistant", "Bye"),
    ]


@pytest.mark.parametrize(
    "text", ["", "no turns here", "only: one turn", "12:30 noon\n12:30 again", "Just prose.\n\nMore prose."]
)
def test_a_text_without_a_conversation_has_no_turns(text):
    assert parse_turns(text) == []


def test_openings_ignore_case_and_punctuation():
    assert opening("Can, I get a latte?", 2) == "can i" == opening("can I have", 2)


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd"), (111, "111th")]
)
def test_ordinals(number, word):
    assert ordinal(number) == word
