"""LongMemEval-like questions: every kind on conversations made by hand, and what must not be asked."""

from itertools import pairwise

import pytest
from memory_conversations import CAFE, MEETING, SHOP, answers, asked, record, window_of
from sample_corpus import doc

from stages.common.records import AnswerKind, Category, Span
from stages.synthesis import knowledge_update, multi_session, single_session, temporal_memory
from stages.synthesis.gaps import fillings, gaps_in
from stages.synthesis.mentions import OR_NOT_MENTIONED, holds, is_clear, says
from stages.synthesis.sessions import session_name, session_named, sessions_of
from stages.synthesis.tool_records import parse_json, records_in
from stages.synthesis.windows import cut_windows

# --- sessions


def test_a_session_is_what_stands_under_its_own_heading():
    sessions = sessions_of(CAFE)
    assert [len(session.turns) for session in sessions] == [4, 2, 2, 2]
    assert CAFE[sessions[1].start :].startswith("## Dialogue dlg-22a2b3c4")
    assert sessions_of("") == []
    (single,) = sessions_of(MEETING)
    assert len(single.turns) == 7


def test_a_heading_inside_an_answer_opens_no_session():
    text = SHOP.replace("That is done", "Done.\n\n## What comes next\n\n- the money\n\nThat is done")
    assert [session.heading for session in sessions_of(text)] == ["Session 1", "Session 2"]
    sub = "# One\n\nuser: hello there\nassistant: hello\n\n## Options\n\nuser: which of them\nassistant: both\n"
    assert len(sessions_of(sub)) == 1


def test_sessions_are_named_by_what_can_be_read():
    cafe, shop = sessions_of(CAFE), sessions_of(SHOP)
    assert session_name(shop, shop[1]) == {"heading": "Session 2"}
    assert session_name(cafe, cafe[1]) == {"opening": "user: What goes into a cortado here?"}
    twice = sessions_of(CAFE + CAFE.partition("\n\n")[2])
    assert session_name(twice, twice[1]) is None
    assert session_named(cafe, {"start": "0"}) is None


def test_windows_of_whole_sessions_do_not_overlap():
    text = "# Orders\n\n" + "".join(
        f"## Dialogue {n}\n\nuser: Could I have drink number {n} please?\nassistant: Yes, number {n} is coming.\n\n"
        for n in range(120)
    )
    windows = cut_windows([doc("orders", text, Category.DIALOGUES)], 50, 2, 60_000)
    assert all(first.end <= second.start for first, second in pairwise(windows))
    assert sum(len(window.sessions) for window in windows) >= 110  # a last one alone is too short
    assert {len(window.sessions) for window in windows} >= {2, 3, 5}
    for window in windows:
        shown = sessions_of(window.read(Span.model_validate(window.span)))
        assert [len(session.turns) for session in shown] == [len(session.turns) for session in window.sessions]


# --- words


def test_phrases_are_whole_words_and_end_at_stops():
    assert says("Oat-milk, please", "oat milk")
    assert not says("I like oat. Milk is fine", "oat milk")
    assert not says("two lattes", "latte")
    assert holds("two lattes", "latte")
    assert not is_clear(["two lattes", "a latte"], "latte")
    assert is_clear(["a Latte", "nothing"], "latte")
    assert not says("{vocalsound} yes", "vocalsound")
    assert not says("oat {pause} milk", "oat milk")


# --- records


def test_records_are_read_as_written():
    (order,) = records_in(
        '{"order_id": "#W5", "price": 1057.240, "big": 1' + "0" * 60 + ', "address": {"zip": "02155"}}'
    )
    assert (order.key, order.id) == ("order_id", "#W5")
    assert order.fields == {"price": "1057.240", "big": "1" + "0" * 60, "address.zip": "02155"}
    inner = records_in('{"order_id": "1", "items": [{"product_id": "7", "item_id": "9", "price": 3}]}')
    assert [(one.key, one.id, one.is_whole) for one in inner] == [("order_id", "1", True), ("item_id", "9", False)]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 2_000 + "1" + "}" * 2_000,
        '{"order_id": "#W5", "price": NaN}',
        '{"order_id": "#W5", "price": Infinity}',
        '{"order_id": "#W5", "order_id": "#W6"}',
        '{"order_id": "#W5", "pri',
        "{vocalsound} what",
        "plain words",
    ],
)
def test_what_is_no_sound_json_shows_no_record(text):
    assert parse_json(text) is None
    assert records_in(text) == []


# --- single_session


def test_a_number_or_a_name_is_left_out_of_its_sentence():
    pairs = asked(single_session.said, CAFE)
    assert answers(pairs) == {"48213", "Peterson", "Laura"}
    number = next(pair for pair in pairs if pair.answer == "48213")
    assert '"My order number is ____ and the name is Peterson."' in number.question
    assert OR_NOT_MENTIONED in number.question
    assert number.answer_kind is AnswerKind.TEXT
    assert number.evidence[0].quote.startswith("user: My order number is 48213")


def test_a_sentence_that_is_said_twice_with_other_values_is_not_asked_for():
    text = MEETING + "[7] Bob Marsh: The budget leaves 900 for each prototype now.\n"
    assert "12500" in answers(asked(single_session.said, MEETING))
    assert not {"12500", "900"} & answers(asked(single_session.said, text))


def test_a_session_is_named_unless_the_gap_stands_in_its_opening():
    text = SHOP.replace("That is done, the money comes back.", "That is done, the money goes to Miller today.")
    pair = next(pair for pair in asked(single_session.said, text) if pair.answer == "Miller")
    assert 'take the session "Session 2"' in pair.question
    assert all("session" not in pair.proof for pair in asked(single_session.said, CAFE) if pair.answer == "Laura")


def test_fillings_stay_in_one_line_and_begin_at_a_word():
    turns = window_of(
        "# S\n\nuser: Xmy code is 5512\nand more\nassistant: my code is 7788 today\nuser: fine by me\n"
    ).turns
    assert [value for _, value in fillings(turns, "my code is ", "")] == ["7788 today"]
    assert [value for _, value in fillings(turns, "my code is ", " today")] == ["7788"]


def test_a_rare_word_is_left_out_only_where_nothing_better_is_said():
    text = MEETING.replace("12500", "too little").replace("Jennifer", "them").replace("Tuesday", "week")
    turns = window_of(text.replace("Rubber Works", "them")).turns
    assert gaps_in(turns, rare_words=False) == []
    assert {"paint", "battery"} & {gap.value for gap in gaps_in(turns, rare_words=True)}


def test_fields_of_records_are_asked_for_where_they_have_one_value():
    pairs = asked(single_session.shown, SHOP, tries=80)
    assert {"89.25", "Boston"} <= answers(pairs, '"#W77"')
    assert "pending" not in answers(pairs, '"#W55"') or all(
        "session" in pair.proof for pair in pairs if pair.answer == "pending"
    )
    assert all(str(pair.answer) not in ("yes", "0") for pair in pairs)


def test_a_field_that_all_records_say_alike_is_not_asked_for():
    text = SHOP.replace("Boston", "Austin")
    assert "Austin" not in answers(asked(single_session.shown, text, tries=80))


# --- knowledge_update


def test_the_first_and_the_last_value_of_a_record_that_changes():
    pairs = asked(knowledge_update.record_change, SHOP)
    assert answers(pairs, "for the last time") == {"cancelled"}
    assert answers(pairs, "for the first time") == {"pending"}
    assert [item.quote[:24] for item in pairs[0].evidence] == ['tool: {"order_id": "#W55', 'tool: {"order_id": "#W55']


def test_a_change_that_changes_back_is_not_asked_for():
    back = SHOP + f"assistant: I take it back.\ntool: {record('pending')}\n"
    assert asked(knowledge_update.record_change, back) == []


def test_a_record_that_can_be_read_only_in_part_is_not_asked_for():
    cut = SHOP + 'assistant: Once more.\ntool: {"order_id": "#W55", "status": "lost", "addr\n'
    assert asked(knowledge_update.record_change, cut) == []
    assert answers(asked(single_session.shown, cut, tries=80), '"#W55"') <= {"312.5", "Austin"}


def test_two_things_with_the_id_of_their_kind_are_no_change():
    text = (
        "# S\n\nuser: Which shirts did I buy there?\n"
        'tool: {"order_id": "A1", "items": [{"product_id": "P9", "price": 150.5}]}\n'
        "assistant: One, and there is another order.\n"
        'tool: {"order_id": "A2", "items": [{"product_id": "P9", "price": 160.5}]}\n'
    )
    assert asked(knowledge_update.record_change, text) == []


def test_the_last_turn_that_says_a_word():
    pairs = asked(knowledge_update.last_mention, MEETING)
    assert answers(pairs, 'the word "budget"') == {"My budget for paint is gone already."}
    assert len(next(pair for pair in pairs if '"budget"' in pair.question).evidence) == 3
    inside = MEETING.replace("My budget for", "My budgets for")
    assert answers(asked(knowledge_update.last_mention, inside), '"budget"') == set()


def test_an_order_that_is_corrected():
    (pair,) = asked(knowledge_update.correction, CAFE)
    assert pair.answer == "No, I actually want it decaf."
    assert 'begins with the turn "user: Could I have a large mocha for Laura please?"' in pair.question
    twice = CAFE.replace("ready in a minute.", "ready.\nuser: And actually for two people, please.")
    assert asked(knowledge_update.correction, twice) == []


# --- multi_session


def test_sessions_in_which_a_speaker_says_something_are_counted():
    pairs = asked(multi_session.count_sessions, CAFE, tries=200)
    assert all(2 <= int(pair.answer) <= 9 and pair.answer_kind is AnswerKind.NUMBER for pair in pairs)
    text = CAFE.replace("Your mocha stands", "Your oat milk stands")
    assert answers(asked(multi_session.count_sessions, text, tries=200), 'the assistant say "oat milk"') == {"2"}
    plural = text.replace("Your oat milk", "Your oat milks")
    assert answers(asked(multi_session.count_sessions, plural, tries=200), 'say "oat milk"') == set()


def test_a_word_twice_in_one_session_counts_once():
    text = CAFE.replace("Is that correct on the screen?", "Is that mocha correct, one mocha on the screen?")
    assert answers(asked(multi_session.count_sessions, text, tries=200), 'the assistant say "mocha"') == {"2"}


def test_the_one_session_in_which_a_word_is_said_later_on():
    pairs = asked(multi_session.which_session, CAFE, tries=200)
    assert answers(pairs, '"espresso"') == {"What goes into a cortado here?"}
    assert answers(pairs, '"cortado"') == set()  # stands in the answer itself
    assert answers(pairs, '"mocha"') == set()  # two sessions
    assert all(pair.answer != "Could I have a large mocha for Laura please?" for pair in pairs)  # in the question


def test_values_of_a_key_are_counted_over_sessions():
    third = (
        SHOP + "\n# Session 3\n\nuser: And the last one of them?\n" + 'tool: {"order_id": "#W88", "status": "new"}\n'
    )
    (pair,) = asked(multi_session.count_records, third)
    assert pair.answer == "3"
    cut = third + 'assistant: One more.\ntool: {"order_id": "#W9\n'
    assert asked(multi_session.count_records, cut) == []


def test_one_session_alone_gives_no_question_over_several():
    for family in (multi_session.count_sessions, multi_session.which_session, multi_session.count_records):
        assert asked(family, MEETING) == []


# --- temporal


def test_the_order_of_turns():
    for pair in asked(temporal_memory.order, MEETING):
        quoted = [line.partition(". ")[2].strip('"') for line in pair.question.split("\n")[1:-1]]
        said = [quoted[int(number) - 1] for number in pair.answer.split(", ")]
        assert sorted(said, key=MEETING.index) == said
        assert len(quoted) >= 3


def test_the_session_next_to_another():
    pairs = asked(temporal_memory.next_session, CAFE, tries=200)
    after = answers(
        pairs, 'says: "They are waiting beside the window." What does the first turn of the session right after'
    )
    assert after == {"My order number is 48213 and the name is Peterson."}
    before = answers(
        pairs, 'says: "They are waiting beside the window." What does the first turn of the session right before'
    )
    assert before == {"What goes into a cortado here?"}


def test_sessions_between_two_turns():
    text = (
        CAFE + "\n## Dialogue dlg-55\n\nuser: Do you sell any bread rolls?\nassistant: Only on Sundays, I am afraid.\n"
    )
    pairs = asked(temporal_memory.sessions_between, text, tries=200)
    said = 'says: "What goes into a cortado here?" and the one in which the user says: "Do you sell any bread rolls?"'
    assert answers(pairs, said) == {"2"}
    assert "0" not in answers(pairs)


def test_who_says_a_word_first_and_last():
    pairs = asked(temporal_memory.first_to_say, MEETING, tries=100)
    assert answers(pairs, 'last there to say the word "budget"') == {"Cleo Hunt"}
    assert answers(pairs, 'first there to say the word "yellow"') == {"Bob Marsh"}
    assert answers(pairs, 'first there to say the word "budget"') == set()  # named as the one with whom the part begins
