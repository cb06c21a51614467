"""Ultra-long sets: answers derived again from the written text, lengths, places, equal bytes, memory."""

import re
import tracemalloc
from dataclasses import replace

import pytest
from corpus_reader import answer_from, figures_asked_about
from evaluation_examples import document

from stages.common.records import Category
from stages.common.storage import DocumentStore, write_jsonl
from stages.engines.scripted_engine import ScriptedEngine
from stages.evaluation.base import LoadRequest
from stages.evaluation.benchmarks.catalogue import by_name
from stages.evaluation.benchmarks.ultra_long import (
    ULTRA_LONG,
    multi_hop_task,
    needle_task,
    numerical_task,
    questions_of_length,
    recall_task,
)
from stages.evaluation.planning import plan
from stages.memory.agent import MemoryAgent

MAKERS = {"needle": needle_task, "multi_hop": multi_hop_task, "recall": recall_task, "numerical": numerical_task}


def count(text):
    return len(text) // 4


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ultra")
    prose = "\n\n".join(f"In year {n} nobody came to the {n}th house. It rained." for n in range(400))
    talk = "".join(f"ann: I have seen {n} birds today\nbob: only {n}? I saw more\n" for n in range(300))
    write_jsonl(
        folder / "documents.jsonl",
        [
            document(Category.GENERAL, "prose", prose),
            document(Category.PROFESSIONAL, "manual", prose.replace("nobody", "no engineer")),
            document(Category.DIALOGUES, "chat", talk),
        ],
    )
    return LoadRequest(
        data_dir=None, use_hub=False, limit=3, lengths=(), seed=5, count_tokens=count,
        documents=DocumentStore([folder / "documents.jsonl"]), contexts_dir=folder / "contexts",
    )  # fmt: skip


def made(name, request, tokens=8_000, questions=1):
    return questions_of_length(
        MAKERS[name], f"{name}/{tokens}", request, tokens, questions, request.contexts_dir / name
    )


def test_the_names_of_the_sets_are_in_the_catalogue_for_the_agent_alone(request_):
    names = [
        "needle_4m", "multi_hop_4m", "dialogue_recall_128k_512k", "dialogue_recall_512k_1m",
        "corpus_numerical_1m", "corpus_numerical_4m",
    ]  # fmt: skip
    assert [benchmark.name for benchmark in ULTRA_LONG] == names
    for name in names:
        benchmark = by_name()[name]
        assert benchmark.modes == ("memory_agent",)
        assert benchmark.available(request_).at_hand
        assert not benchmark.available(replace(request_, documents=None)).at_hand


def test_lengths_are_those_of_the_names(request_):
    def tokens(name, limit):
        questions = by_name()[name].load(replace(request_, limit=limit)).questions
        return [question.context_tokens for question in questions]

    assert tokens("needle_4m", 1) == tokens("corpus_numerical_4m", 1) == [4_000_000]
    short, long = tokens("dialogue_recall_128k_512k", 20), tokens("dialogue_recall_512k_1m", 20)
    assert all(128_000 <= length <= 512_000 for length in short)
    assert all(512_000 <= length <= 1_000_000 for length in long)
    assert len(set(short)) > 15
    assert tokens("dialogue_recall_128k_512k", 2) == short[:2]  # the first n of n + 1


@pytest.mark.parametrize("name", MAKERS)
def test_a_gold_answer_scores_one_silence_and_echo_nothing(name, request_):
    for question in made(name, request_, questions=8):
        assert question.score(question.gold) == 1.0
        assert question.score("") == 0.0
        assert question.score("\n".join(m["content"] for m in question.closed_book_messages())) == 0.0
        assert question.prompt("part")[-1]["role"] == "user"


@pytest.mark.parametrize("name", MAKERS)
def test_the_text_has_its_length_and_writing_twice_gives_equal_bytes(name, request_, tmp_path):
    (question,), (again,) = made(name, request_), made(name, replace(request_, contexts_dir=tmp_path))
    first, second = question.context(), again.context()
    assert first != second
    assert first.read_bytes() == second.read_bytes()
    assert plan(question, "memory_agent").content == plan(again, "memory_agent").content
    assert abs(count(first.read_text()) - 8_000) < 0.02 * 8_000
    assert question.context() == first  # not written again
    (other,) = made(name, replace(request_, seed=6, contexts_dir=tmp_path / "other"))
    assert other.context().read_bytes() != first.read_bytes()


def test_a_needle_stands_at_its_depth(request_):
    for question in made("needle", request_, tokens=20_000, questions=6):
        text = question.context().read_text()
        key = re.search(r"number for (\S+) mentioned", question.question)[1]
        (value,) = re.findall(rf"One of the special magic numbers for {key} is: (\d+)\.", text)
        assert value == question.gold
        assert abs(text.index(value) / len(text) - question.evidence_position) < 0.03


def test_following_the_chain_gives_the_vault(request_):
    for question in made("multi_hop", request_, questions=10):
        text = question.context().read_text()
        thing = re.match(r"The (\S+) was given", question.question)[1]
        (holder,) = re.findall(rf"The {thing} was first given to agent (\S+)\.", text)
        while found := re.findall(rf"Agent {holder} passed the {thing} on to agent (\S+)\.", text):
            (holder,) = found
        assert re.findall(rf"Agent {holder} locked the {thing} away in vault (\d+)\.", text) == [question.gold]


def test_the_reply_is_the_one_of_that_number(request_):
    for question in made("recall", request_, questions=10):
        text = question.context().read_text()
        topic = re.search(r"a note about the (\S+)\. Prepend", question.question)[1]
        number = int(re.search(r"to the (\d+)\w\w of these", question.question)[1])
        replies = re.findall(rf"^user: Please write a short note about the {topic}\.\nassistant: (.*)$", text, re.M)
        assert 2 <= len(replies) == len(set(replies)) <= 8
        prefix = question.gold.removesuffix(replies[number - 1])
        assert len(prefix) == 10
        assert prefix in question.question
        assert question.score(prefix + replies[number - 2]) < 1.0
        assert question.score(replies[number - 1]) == 0.0


def test_figures_over_the_corpus_are_those_of_the_reports_in_the_text(request_):
    operations = set()
    for question in made("numerical", request_, questions=40):
        text = question.context().read_text()
        assert len(figures_asked_about(question.question, text)) >= 2
        right = answer_from(question.question, text)
        assert question.score(right) == 1.0, (question.question, right, question.gold)
        operations.add(question.question.split()[0:3][-1])
    assert len(operations) >= 4


def test_hay_never_speaks_of_what_is_asked(request_, tmp_path):
    path = tmp_path / "documents.jsonl"
    (question,) = made("multi_hop", request_)
    thing = re.match(r"The (\S+) was given", question.question)[1]
    text = f"The {thing} was first given to agent Zed-1.\n\n" + "Nothing else happened here.\n\n" * 50
    write_jsonl(path, [document(Category.GENERAL, "liar", text)])
    lying = replace(request_, documents=DocumentStore([path]), contexts_dir=tmp_path)
    (again,) = made("multi_hop", lying)
    assert again.gold == question.gold
    assert "Zed-1" not in again.context().read_text()


def test_a_long_text_is_written_and_read_without_being_held(request_, tmp_path):
    (question,) = made("needle", replace(request_, contexts_dir=tmp_path), tokens=250_000)
    engine = ScriptedEngine(lambda *_: "<memory>nothing</memory>", max_model_tokens=10**9, keep_requests=False)
    agent = MemoryAgent(engine, 16_384, 64, 64, 64)
    tracemalloc.start()
    path = question.context()
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    result = agent.answer(question.question, path)
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 980_000
    assert len(result.turns) > 60
    assert written < 700_000  # bytes; the corpus and one piece
    assert read < 2_500_000  # two chunks as text and as ids; the text as ids has 8 MB
