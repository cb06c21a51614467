"""Sets made of a corpus at given lengths below a window: MRCR's rows and CorpusQA's kind, answers derived again from the text."""

import logging
import re
from dataclasses import replace

import pytest
from asking_world import ask
from corpus_reader import answer_from, figures_asked_about, reports_in
from evaluation_examples import document, stage_config

from stages.common.records import Category
from stages.common.storage import DocumentStore, write_jsonl
from stages.evaluation.base import LoadRequest
from stages.evaluation.benchmarks.catalogue import by_name
from stages.evaluation.evaluate import ask_settings
from stages.evaluation.planning import plan

LENGTHS = (4_000, 16_000)


def count(text):
    return len(text) // 4


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    prose = "\n\n".join(
        f"In year {n} nobody came to the {n}th house, and the {n * 7}th lamp was lit late. It rained until the {n}th of May, "
        f"as the old people had said. What was left was carried away." for n in range(900)
    )  # fmt: skip
    write_jsonl(folder / "documents.jsonl", [
        document(Category.GENERAL, "prose", prose),
        document(Category.PROFESSIONAL, "manual", prose.replace("nobody", "no engineer")),
    ])  # fmt: skip
    return LoadRequest(
        data_dir=None, use_hub=False, limit=12, lengths=LENGTHS, seed=5, count_tokens=count,
        documents=DocumentStore([folder / "documents.jsonl"]), contexts_dir=folder / "contexts",
    )  # fmt: skip


def load(name, request):
    benchmark = by_name()[name]
    assert benchmark.available(request).at_hand
    return benchmark.load(request).questions


def text_of(question):
    context = question.context()
    return context if isinstance(context, str) else context.read_text()


@pytest.mark.parametrize("name", ["mrcr_made", "corpus_numerical"])
def test_sets_have_the_lengths_asked_for_and_the_same_text_each_time(name, request_, tmp_path):
    questions = load(name, request_)
    again = load(name, replace(request_, contexts_dir=tmp_path))
    assert [question.benchmark for question in questions] == [
        f"{name}/{tokens}" for tokens in LENGTHS for _ in range(6)
    ]
    for question, other in zip(questions, again, strict=True):
        text = text_of(question)
        tokens = int(question.benchmark.split("/")[1])
        if name == "mrcr_made":  # five tokens a message are for the chat template, which is not in the text
            assert 0.75 * tokens <= count(text) <= tokens
        else:
            assert abs(count(text) - tokens) < 0.02 * tokens
        assert text == text_of(other)
    assert len({text_of(question) for question in questions}) == len(questions)
    changed = load(name, replace(request_, seed=6, contexts_dir=tmp_path / "other"))
    assert text_of(changed[0]) != text_of(questions[0])
    assert by_name()[name].modes == ("full_context", "memory_agent")
    assert not by_name()[name].available(replace(request_, documents=None)).at_hand


def test_the_corpus_lies_on_disk_and_its_figures_are_those_of_the_text(request_):
    operations = set()
    for question in load("corpus_numerical", replace(request_, limit=60)):
        path = question.context()
        assert path.is_relative_to(request_.contexts_dir)
        text = path.read_text()
        assert len(reports_in(text)) == 12  # the least; 64 in 128K tokens
        assert len(figures_asked_about(question.question, text)) >= 4
        right = answer_from(question.question, text)
        assert question.score(right) == 1.0, (question.question, right, question.gold)
        operations.add(re.match(r"(?:\S+ ){2}\S+", question.question)[0])
    assert len(operations) >= 4


def test_a_long_text_holds_a_report_every_two_thousand_tokens(request_):
    (question,) = load("corpus_numerical", replace(request_, limit=1, lengths=(128_000,)))
    assert len(reports_in(text_of(question))) == 64
    assert len(figures_asked_about(question.question, text_of(question))) >= 10


def test_lengths_that_cannot_hold_the_reports_are_left_out_and_told(request_, caplog):
    with caplog.at_level(logging.WARNING):
        questions = load("corpus_numerical", replace(request_, lengths=(256, 4_000)))
    assert {question.benchmark for question in questions} == {"corpus_numerical/4000"}
    assert "corpus_numerical/256" in caplog.text


def test_the_reply_is_the_one_of_that_number_among_equal_requests(request_):
    seen = []
    for question in load("mrcr_made", request_):
        (*turns, last) = question.prompt(text_of(question))
        number, kind, topic = re.fullmatch(
            r"Prepend \w{10} to the (\d)\w\w \(1 indexed\) ([a-z ]+) about (\w+)\. Do not include any other text in your "
            r"response\.", last["content"],
        ).groups()  # fmt: skip
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        replies = [
            reply["content"]
            for asked, reply in zip(turns[::2], turns[1::2], strict=True)
            if asked["content"] == f"write a {kind} about {topic}"
        ]
        assert str(len(replies)) == question.groups["needles"]
        every = [turn["content"] for turn in turns[1::2]]
        assert len(set(every)) == len(every)  # no reply comes twice
        prefix = question.gold.removesuffix(replies[int(number) - 1])
        assert len(prefix) == 10
        assert f"Prepend {prefix} to" in last["content"]
        assert question.score(question.gold) == 1.0
        assert question.score(prefix + replies[int(number) - 2]) < 1.0
        assert question.score(replies[int(number) - 1]) == question.score("") == question.score(last["content"]) == 0.0
        place = text_of(question).index(replies[int(number) - 1]) / len(text_of(question))
        assert abs(place - question.evidence_position) < 0.1
        seen.append(question.groups["needles"])
    assert seen == ["2", "4", "8"] * 4


def test_a_corpus_that_is_used_up_gives_no_question_and_says_so(request_, tmp_path, caplog):
    path = tmp_path / "documents.jsonl"
    write_jsonl(path, [document(Category.GENERAL, "few", "\n\n".join(f"{n} lamps. " * 15 for n in range(9)))])
    with caplog.at_level(logging.WARNING):
        assert load("mrcr_made", replace(request_, documents=DocumentStore([path]), lengths=(4_000,))) == []
    assert "mrcr_made/4000: 12 of 12 questions could not be made" in caplog.text


def test_both_are_asked_with_their_full_context_and_scored(request_, tmp_path):
    chosen = [load(name, replace(request_, lengths=(4_000,), limit=1))[0] for name in ("corpus_numerical", "mrcr_made")]
    golds = {question.question: question.gold for question in chosen}

    def script(prompt, request, index):
        return next(gold for asked, gold in golds.items() if asked in prompt)

    settings = ask_settings(stage_config(max_input_tokens=40_000, max_output_tokens=2_000))
    rows = ask([plan(question, "full_context") for question in chosen], tmp_path, settings, script).evaluation.rows
    assert [row["benchmark"] for row in rows] == ["corpus_numerical/4000", "mrcr_made/4000"]
    assert rows[0]["mean"] == 1.0
    assert 0.7 < rows[1]["mean"] < 1.0  # its output budget is in tokens, those of the scripted engine are bytes
    assert all(row["context_cut"] == 0 for row in rows)
