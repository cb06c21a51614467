"""No scorer pays for saying nothing, and none but those named here for an echo of the question or a copy of the context."""

import pytest
from benchmark_rows import FROM_ROWS, MADE, load, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common.storage import write_jsonl
from stages.evaluation.benchmarks.docmath import CONVFINQA
from stages.evaluation.benchmarks.reading import qa_question

NAMES = [*FROM_ROWS, *MADE]

# Overlap of words, as published: an echo shares small words with the gold.
ECHO_BOUNDS = {"rouge_l": 0.25, "f1": 0.5}  # "Medal?" has a third of "Medal of Honor"
# Benchmarks whose published rule looks whether a gold string occurs anywhere (NoCha: in the last line with a verdict;
# BABILong: in the first sentence, where a fact may stand).
COPY_IS_PAID = {"babilong", "bfcl_memory", "needle", "nocha", "ruler"}
# Of the others: words that are in both, and integers that are right by chance.
COPY_BOUNDS = {"rouge_l": 0.25, "f1": 0.25, "integer_share": 0.25}

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
blanks = st.text(alphabet=" \n\t\r", max_size=20)


@pytest.fixture(scope="module", params=NAMES)
def questions(request, data):
    return load(request.param, data, limit=13 if request.param in MADE else None).questions


def scores_of(question, response):
    scores = {name: score(response) for name, score in question.more_metrics.items()}
    return {**scores, question.metric: question.score(response)}


@given(text=st.text(alphabet=" \n\t\r.,;:!?*()[]\"'-", max_size=60))
@relaxed
def test_blanks_and_punctuation_earn_nothing(questions, text):
    for question in questions:
        assert not any(scores_of(question, text).values()), (question.benchmark, question.id)


@given(
    before=blanks,
    after=blanks,
    times=st.integers(1, 3),
    case=st.sampled_from([str, str.upper, str.lower, str.title]),
    part=st.sampled_from(["question", "form", "both", "prompt"]),
)
@relaxed
def test_an_echo_of_the_question_earns_at_most_shared_words(questions, before, after, times, case, part):
    for question in questions:
        prompt = "\n".join(message["content"] for message in question.closed_book_messages())
        both = f"{question.question}\n{question.answer_form}"
        text = {"question": question.question, "form": question.answer_form, "both": both, "prompt": prompt}[part]
        echo = before + case(f"{text}\n" * times) + after
        for name, score in scores_of(question, echo).items():
            assert score <= ECHO_BOUNDS.get(name, 0.0), (question.benchmark, question.id, name, echo)


@given(case=st.sampled_from([str, str.upper, str.lower]), wraps=st.integers(0, 2))
@relaxed
def test_a_copy_of_the_context_earns_nothing_where_the_guard_looks(questions, case, wraps):
    for question in questions:
        context = question.context()
        text = context if isinstance(context, str) else context.read_text()
        if not text:
            continue  # no context
        copy = case(" ".join([text] * (1 + 400 // len(text.split()))) + "\n\n" * wraps)
        scores = scores_of(question, copy)
        name = question.benchmark.split("/")[0]
        assert scores.get("guarded", 0.0) == 0.0
        if name in COPY_IS_PAID:
            assert "guarded" in scores, name
            continue
        for metric, score in scores.items():
            assert score <= COPY_BOUNDS.get(metric, 0.0), (question.benchmark, question.id, metric)


def test_what_the_published_containment_rules_pay_for_is_what_the_guard_refuses(data):
    (question,) = load("bfcl_memory", data).questions
    copy = question.context() * 20
    assert question.score(copy) == 1.0
    assert question.more_metrics["guarded"](copy) == 0.0
    assert question.more_metrics["guarded"]("My first name is Michael.") == 1.0
    for question in load("ruler", data, limit=8, lengths=(3_000,)).questions:
        if "niah" in question.benchmark:
            assert question.score(question.context()) == 1.0
            assert question.more_metrics["guarded"](question.context()) == 0.0
            assert question.more_metrics["guarded"](" and ".join(question.gold)) == 1.0


def test_words_of_the_form_are_no_answer():
    asked = qa_question(benchmark="b", name="n", question="Which land?", golds=["it"], context=str)
    assert "it" in asked.answer_form  # "with"
    assert asked.score(f"Which land?\n{asked.answer_form}") == 0.0
    assert asked.score("It.") == 1.0


def test_an_answer_that_is_no_number_is_wrong_also_where_the_gold_is_zero(tmp_path):
    rows = [
        {"id": "z", "questions": ["What was the change from 2018 to 2019?"], "answer": 0.0, "text": "t", "table": ""}
    ]
    write_jsonl(tmp_path / "convfinqa" / "data.jsonl", rows)
    (question,) = CONVFINQA.load(request(tmp_path)).questions
    assert question.score("What was the change from 2018 to 2019?") == 0.0
    assert question.score("no idea, 7 days") == 0.0
    assert question.score("Therefore, the answer is (0).") == question.score("0.0 %") == 1.0
