"""Questions split into core and formatting instructions: by rules, by a model that is checked; nothing lost, nothing invented."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.chat import EndpointError
from stages.common.chat_access import open_chat
from stages.common.config import NO_ENDPOINT
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply
from stages.engines.scripted_engine import ScriptedEngine
from stages.memory.agent import MemoryAgent
from stages.memory.query import SplitQuery, is_split_of, split_query
from stages.memory.query_model import split_by_model, split_of_completion, split_request


@pytest.mark.parametrize(
    ("core", "form"),
    [
        ("Who owns the key?", "Answer with the name only."),
        ("Who owns the key?", "Please respond in JSON with the field \"owner\"."),
        ("How much did it cost?", "Your final answer must be a number without a unit."),
        ("How much did it cost?", "Do not provide any explanation. Think step by step."),
        ("What is the mean?", "Round to one decimal place. Put your final answer in \\boxed{}."),
        ("Which city is it?", "If the documents do not say, answer \"unknown\"."),
        ("Which city is it?", "Output format: one word, lower case."),
        ("Which is right?\nA. Answer with care\nB. Do not explain\n(C) none", "Give only the letter of your answer."),
        ("Name the rivers.", "Format:\n{\n  \"rivers\": [\"...\"]\n}"),
    ],
)  # fmt: skip
def test_instructions_about_the_answer_are_taken_out(core, form):
    joint = "\n" if "\n" in core + form else " "
    assert split_query(core + joint + form) == SplitQuery(core, form)


def test_instructions_may_stand_first():
    asked = "Answer the question based on the given documents. Only give me the answer.\n\nWho owns the key?"
    form = "Answer the question based on the given documents. Only give me the answer."
    assert split_query(asked) == SplitQuery("Who owns the key?", form)


@pytest.mark.parametrize(
    "question",
    [
        "What is the total cost? Do not include taxes.",  # says what to sum, not how to write it
        "Answer with the name of the capital of France.",  # nothing would be left
        "What does the manual answer with respect to leaks?",
        "Prepend aB3 to the 2nd turn of Ann: write aB3 directly followed by what Ann says there, word for word.",
        "The response must be known. What is it? It should be blue.",
        "Answer in which year?",
        "Which of the answers given in court was false?",
        "",
    ],
)
def test_what_says_what_is_asked_stays(question):
    parts = split_query(question)
    if question.startswith("The response must"):
        assert parts.core.endswith("What is it? It should be blue.")
    else:
        assert parts == SplitQuery(question, "")


SENTENCES = [
    "Who owns the key?", "Answer with one word.", "Respond in JSON: {\"a\": 1}.", "A. red", "(B) Answer with care", "\n", "\n\n",
    "Format:", "Your answer must be short!", "The U.S. dollar fell, e.g. in May. ", "  ", "«Ünïcode» 你好。", "Do not explain", "- item 1",
    "1. Only output the number.", "If it is unknown, say so.", "\t", "\r\n", "Please", "...", "\u2028",
]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(SENTENCES), st.text(max_size=8))).map(" ".join)))
def test_nothing_of_a_question_is_lost_or_invented(question):
    parts = split_query(question)
    assert sorted("".join(question.split())) == sorted("".join((parts.core + parts.instructions).split()))
    if question.strip():
        assert parts.core.strip()
        assert is_split_of(question, parts)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), min_size=1, max_size=30))
def test_any_dealing_of_the_words_is_a_split_and_any_change_is_none(dealt):
    question = " ".join(word for word, _ in dealt)
    parts = SplitQuery(
        " ".join(word for word, in_core in dealt if in_core), " ".join(word for word, in_core in dealt if not in_core)
    )
    assert is_split_of(question, parts) == bool(parts.core)
    assert not is_split_of(question, SplitQuery(parts.core + " d", parts.instructions))
    assert not is_split_of(question + " a", parts)


def test_a_split_keeps_the_order_of_words():
    assert not is_split_of("one two three", SplitQuery("two one", "three"))
    assert is_split_of("one two three", SplitQuery("one three", "two"))


QUESTION = "Who owns the key? Kindly in capitals. Answer with the name only."


def chat_of(server, tmp_path):
    config = {"model": "m", "base_url": server.base_url, "timeout_seconds": 5.0}
    return open_chat(NO_ENDPOINT.model_copy(update=config), tmp_path)


def test_a_model_may_find_what_the_rules_do_not(tmp_path):
    reply = {"core": "Who owns the key?", "instructions": "Kindly in capitals. Answer with the name only."}
    with ScriptedChatServer([json.dumps(reply)]) as server:
        chat = chat_of(server, tmp_path)
        assert split_by_model(chat, [QUESTION]) == [SplitQuery(*reply.values())]
        assert split_by_model(chat, [QUESTION, QUESTION]) == [SplitQuery(*reply.values())] * 2  # in another event loop
        (request,) = server.requests  # the same call is answered from disk
    assert QUESTION in request["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps({"core": "Who owns the lock?", "instructions": "Kindly in capitals. Answer with the name only."}),
        json.dumps({"core": "Who owns the key?", "instructions": "Answer with the name only."}),  # words are lost
        json.dumps({"core": "", "instructions": QUESTION}),
        json.dumps({"core": QUESTION, "instructions": "Obey me."}),
        "The key is Tom's.",
        ScriptedReply(status=400, body=b"no"),
        ScriptedReply(text='{"core": "Who', finish_reason="length"),
    ],
)
def test_a_reply_that_is_no_split_gives_the_rules_result(reply, tmp_path):
    with ScriptedChatServer([reply]) as server:
        assert split_by_model(chat_of(server, tmp_path), [QUESTION]) == [split_query(QUESTION)]
    assert split_query(QUESTION) == SplitQuery("Who owns the key? Kindly in capitals.", "Answer with the name only.")


def test_a_wrong_key_is_told(tmp_path):
    with (
        ScriptedChatServer([ScriptedReply(status=401, body=b"{}")]) as server,
        pytest.raises(EndpointError),
    ):
        split_by_model(chat_of(server, tmp_path), [QUESTION])


def test_the_agent_reads_with_the_core_and_answers_with_the_instructions():
    prompts = []

    def script(prompt, *_):
        prompts.append(prompt)
        return "<memory>Tom has it</memory>"

    engine = ScriptedEngine(script)
    agent = MemoryAgent(engine, 32, 64, 64, 64, format_instruction="Be short.")
    agent.answer("Who owns the key? Answer with the name only.", "Tom owns the key.")
    reading, answering = prompts
    assert "<question>Who owns the key?</question>" in reading
    assert "Answer with" not in reading
    assert answering == (
        "<user>\nYou have read a long text and kept this memory of it.\n<memory>Tom has it</memory>\n"
        "Answer the question from the memory.\n<question>Who owns the key?</question>\n"
        "Answer with the name only.\nBe short.\n<assistant>\n"
    )
    prompts.clear()
    MemoryAgent(engine, 32, 64, 64, 64, split=None).answer("Who? Answer with the name only.", "Tom.")
    assert all("<question>Who? Answer with the name only.</question>" in prompt for prompt in prompts)


def split_by_engine(reply, window=100_000):
    engine = ScriptedEngine(lambda *_: reply, max_model_tokens=window)
    request = split_request(engine, QUESTION)
    assert request is not None
    assert request.temperature == 0
    return split_of_completion(engine, engine.generate_all([request])[0][0], QUESTION)


def test_the_loaded_model_may_split_too_and_is_checked_as_an_endpoint_is():
    reply = {"core": "Who owns the key?", "instructions": "Kindly in capitals. Answer with the name only."}
    for text in (json.dumps(reply), f"Two parts, I see.</think>```json\n{json.dumps(reply)}\n```"):
        assert split_by_engine(text) == SplitQuery(*reply.values())
    wrong = json.dumps(reply | {"core": "Who owns the lock?"})
    cut = json.dumps(reply)[:-20] + " " * 5000  # runs into the limit of a reply
    for text in (wrong, "Tom owns it.", cut):
        assert split_by_engine(text) == split_query(QUESTION)


def test_a_question_that_leaves_the_window_no_room_for_its_split_is_not_asked():
    engine = ScriptedEngine(lambda *_: "", max_model_tokens=2_000)
    assert split_request(engine, "Who? " * 20) is not None
    assert split_request(engine, "Who? " * 300) is None
    assert split_request(ScriptedEngine(lambda *_: ""), "Who? " * 3_000) is None
