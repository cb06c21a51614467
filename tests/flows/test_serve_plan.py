"""Which part of a conversation is the question, which the document, and which way it is answered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flows.serve_api import parse_chat
from flows.serve_errors import ApiError
from flows.serve_plan import Planner
from stages.engines.scripted_engine import ByteTokenizer
from tests.flows.serve_world import LENGTHS, WINDOW

BOOK = "It was a long day. " * 400
FORM = "If the memory does not hold the answer, say so."


def plan(*messages, planner=None, **options):
    planner = planner or Planner(ByteTokenizer(), WINDOW, LENGTHS, WINDOW // 2)
    given = [{"role": role, "content": content} for role, content in messages]
    return planner.plan(parse_chat(json.dumps({"model": "m", "messages": given} | options).encode()))


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def test_what_fits_to_the_last_token_is_one_pass():
    fixed = len("<user>\n\n<assistant>\n")
    text = "x" * (WINDOW - fixed - 100)
    assert len(plan(("user", text)).prompt_ids) == WINDOW - 100
    read = plan(("user", f"{text}\n\nx?"))
    assert (read.document, read.question) == (text, "x?")


def test_the_last_message_is_the_question_and_what_came_before_the_document():
    read = plan(("user", BOOK), ("assistant", "I have read it."), ("user", "Why?\n\nIn one line."))
    assert read.question == "Why?\n\nIn one line."
    assert read.document == f"User:\n{BOOK}\n\nAssistant:\nI have read it."
    assert read.instruction == FORM


def test_a_long_last_message_ends_with_the_question():
    read = plan(("user", f"{BOOK}\n\nSecond part.\n\nWhy?\n"))
    assert (read.document, read.question) == (f"{BOOK}\n\nSecond part.", "Why?")


def test_a_short_text_with_its_question_is_read_if_that_is_asked_for():
    read = plan(("user", "It was long.\n\nWhy?"), longfuse={"mode": "agent"})
    assert (read.document, read.question) == ("It was long.", "Why?")


def test_the_last_of_several_parts_is_the_question():
    read = plan(("user", parts(BOOK, "An appendix.", "Why?\n\nSay it briefly.")))
    assert (read.document, read.question) == (f"{BOOK}\n\nAn appendix.", "Why?\n\nSay it briefly.")


def test_a_short_system_message_is_the_form_of_the_answer_and_a_long_one_a_document():
    read = plan(("system", "Answer in French."), ("user", BOOK), ("user", "Why?"))
    assert read.instruction == f"Answer in French.\n{FORM}"
    assert read.document == f"User:\n{BOOK}"
    assert plan(("developer", BOOK), ("user", "Why?")).document == f"System:\n{BOOK}"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([("user", BOOK)], "no question was found"),
        ([("user", f"{BOOK}\n\n{'very ' * 200}")], "no question was found"),
        ([("user", "Why?")], "nothing to read beside the question"),
    ],
)
def test_what_has_no_question_or_no_document(messages, said):
    with pytest.raises(ApiError, match=said):
        plan(*messages, longfuse={"mode": "agent"})


def test_a_question_that_leaves_no_room_is_refused_with_the_numbers():
    tight = Planner(ByteTokenizer(), WINDOW, replace(LENGTHS, chunk=2_600), WINDOW // 2)
    assert plan(("user", BOOK), ("user", "Why?"), planner=tight).question == "Why?"
    with pytest.raises(ApiError, match=r"a turn of the memory agent needs \d+ tokens .* question 299") as refused:
        plan(("user", BOOK), ("user", "Why? " * 60), planner=tight)
    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")


def test_a_huge_text_is_not_counted():
    class Counting(ByteTokenizer):
        def encode_chat(self, messages):
            assert sum(len(message["content"]) for message in messages) <= 32 * WINDOW
            return super().encode_chat(messages)

    planner = Planner(Counting(), WINDOW, LENGTHS, WINDOW // 2)
    read = plan(("user", "word " * 30_000), ("user", "Why?"), planner=planner)
    assert len(read.document) == len("User:\n") + 150_000


def test_a_template_that_refuses_the_roles_is_the_clients_error():
    from jinja2.exceptions import TemplateError

    class Refusing(ByteTokenizer):
        def encode_chat(self, messages):
            raise TemplateError("Conversation roles must alternate")

    with pytest.raises(ApiError, match="chat template refuses these messages: Conversation roles"):
        plan(("user", "a"), ("user", "b"), planner=Planner(Refusing(), WINDOW, LENGTHS, 100))
