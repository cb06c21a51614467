"""Every benchmark from rows in its official form: prompt, gold, score, groups; an echo or silence earns nothing."""

import json
import random
import re
from collections import Counter

import pytest
from benchmark_rows import FROM_ROWS, MADE, ROWS, load, prompt_of, request

from stages.common.chat import ChatFailedError, ChatReply, Usage
from stages.common.generators.ruler_tasks import NEEDLE_FORMS, make_common_words, make_frequent_words, make_needles
from stages.evaluation.base import MODES
from stages.evaluation.benchmarks.catalogue import BENCHMARKS, by_name
from stages.evaluation.benchmarks.graphwalks import breadth_first, final_set_f1, parents
from stages.evaluation.selection import select


def test_names_are_unique():
    assert len(by_name()) == len(BENCHMARKS)


@pytest.mark.parametrize("name", [*FROM_ROWS, *MADE])
def test_a_gold_answer_scores_one_silence_and_echo_nothing(name, data):
    loaded = load(name, data, limit=13 if name in MADE else None)
    assert loaded.questions
    for question in loaded.questions:
        gold = question.gold if isinstance(question.gold, str) else question.gold[0] if question.gold else ""
        right = f"The correct answer is ({gold})" if name.startswith("longbench_v2") else gold
        if name == "graphwalks":
            right = f"Final Answer: [{', '.join(question.gold)}]"
        if name == "ruler":
            right = " ".join(question.gold)
        assert question.score(right) == 1.0
        assert question.score("") == 0.0
        assert question.score("\n") == 0.0
        echo = "\n".join(message["content"] for message in question.closed_book_messages())
        assert question.score(echo) <= (0.2 if question.metric == "rouge_l" else 0.0)  # small words are common
        assert all(score(right) > 0 for score in question.more_metrics.values())
        for part in ("", prompt_of(question)[0]["content"][:7]):
            assert question.prompt(part)[-1]["role"] == "user"


@pytest.mark.parametrize("name", [*FROM_ROWS, *MADE])
def test_the_first_n_are_a_part_of_the_first_n_plus_one(name, data):
    one, two = load(name, data, limit=1).questions, load(name, data, limit=2).questions
    assert len(one) == 1
    assert one[0].id == two[0].id
    assert one[0].context() == two[0].context()


@pytest.mark.parametrize(
    ("name", "where", "reason"),
    [
        ("longbench_v2", "data.jsonl:2", "no letter A to D"),
        ("longbench_v1", "qasper.jsonl:2", "none of LongBench's forms"),
        ("frames", "test.jsonl:2", "no field 'Answer'"),
        ("mrcr", "rows.jsonl:2", "not enough values"),
        ("musique", "data.jsonl:2", "it has no answer"),
        ("mmlu_pro", "data.jsonl:2", "none of 1 options"),
        ("babilong", "qa1_single-supporting-fact_test.txt:4", "no numbered line"),
    ],
)
def test_broken_rows_are_named(name, where, reason, data):
    broken = {row.where: row.reason for row in load(name, data).broken}
    assert reason in broken[where]


def frames_of(tmp_path, rows, pages=()):
    for name, values in (("frames/test.jsonl", rows), ("frames/pages/a.jsonl", pages)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return tmp_path


def test_frames_is_read_where_all_pages_of_a_question_are_at_hand(tmp_path):
    fish, river = "https://en.wikipedia.org/wiki/Moxostoma", "https://en.wikipedia.org/wiki/R%C3%ADo_Grande"
    rows = [
        {"Unnamed: 0": 0, "Prompt": "Which fish?", "Answer": "Moxostoma", "wiki_links": str([fish, river])},
        {"id": "half", "question": "Which?", "answer": "a", "wiki_links": [fish, "https://en.wikipedia.org/wiki/None"]},
        {"id": "own", "question": "Which?", "answer": "a", "pages": [{"title": "P", "text": "It is <a>."}]},
        {"id": "whole", "question": "Which?", "answer": "a", "context": "All of it."},
        {"id": "bare", "question": "Which?", "answer": "a", "wiki_links": "[os.system('x'), "},
    ]
    pages = [
        {
            "url": "http://en.m.wikipedia.org/wiki/Río Grande#Course",
            "title": "Río Grande",
            "text": "A river </document> ü.",
        },
        "no page",
        {"url": fish, "text": " "},
        {"url": fish, "text": "A fish."},
    ]
    loaded = load("frames", frames_of(tmp_path, rows, pages))
    assert loaded.broken == []
    assert {question.id: tuple(question.modes) for question in loaded.questions} == {
        "frames-0": MODES, "half": ("closed_book",), "own": MODES, "whole": MODES, "bare": ("closed_book",),
    }  # fmt: skip
    contexts = {question.id: question.context() for question in loaded.questions}
    assert contexts["frames-0"] == (
        '<document title="Moxostoma">\nA fish.\n</document>\n'
        '<document title="Río Grande">\nA river ‹/document> ü.\n</document>'
    )
    assert contexts["half"] == contexts["bare"] == ""
    assert contexts["own"] == '<document title="P">\nIt is <a>.\n</document>'
    assert contexts["whole"] == "All of it."


def test_questions_without_their_context_are_skipped_by_mode_and_told(tmp_path):
    rows = [{"id": "a", "question": "Which?", "answer": "a", "context": "It is a."}]
    rows += [{"id": name, "question": "Which?", "answer": "a"} for name in "bc"]
    data = frames_of(tmp_path, rows)
    chosen = select([by_name()["frames"]], MODES, lambda _: request(data))
    assert [(item.mode, item.question.id) for item in chosen.planned] == [
        ("full_context", "a"), ("memory_agent", "a"),
        ("closed_book", "a"), ("closed_book", "b"), ("closed_book", "c"),
    ]  # fmt: skip
    assert list(chosen.skipped) == ["frames (full_context)", "frames (memory_agent)"]
    assert all("2 of 3 questions: their pages are not at hand" in reason for reason in chosen.skipped.values())


def test_longbench_v2_asks_in_the_official_form(data):
    (question,) = load("longbench_v2", data).questions
    assert prompt_of(question)[0]["content"] == (
        "Please read the following text and answer the question below.\n\n<text>\nIt is b.\n</text>\n\n"
        "What is the correct answer to this question: Which?\nChoices:\n(A) a\n(B) b\n(C) c\n(D) d\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".'
    )
    assert question.groups == {"difficulty": "hard", "length": "short", "domain": "QA"}
    assert question.judge is None


def test_longbench_v1_puts_its_finished_prompt_together_again(data):
    questions = {question.benchmark: question for question in load("longbench_v1", data).questions}
    qasper, count = questions["longbench_v1/qasper"], questions["longbench_v1/passage_count"]
    assert qasper.context() == "The gain is 5 points."
    assert prompt_of(qasper)[0]["content"] == ROWS["longbench_v1/qasper.jsonl"][0]["prompt"]
    assert qasper.question == "What is the gain?"
    assert qasper.more_metrics["f1"]("the 5 points") == 1.0
    assert prompt_of(count)[0]["content"] == ROWS["longbench_v1/passage_count.jsonl"][0]["prompt"]
    assert count.score("46 or 47") == 0.5


def test_mrcr_is_a_conversation_even_when_its_middle_is_cut(data):
    (question,) = load("mrcr", data).questions
    assert prompt_of(question) == [
        {"role": "user", "content": "write a poem"},
        {"role": "assistant", "content": "Roses\nare red"},
        {"role": "user", "content": "Prepend aB3xYz0123 to the 1st poem."},
    ]
    cut = question.prompt(question.context()[:16] + "\n[...]\n" + question.context()[-4:])
    assert [message["role"] for message in cut] == ["user", "user"]
    assert question.score("aB3xYz0123Roses\nare blue") == pytest.approx(2 * 11 / (13 + 14))  # "Roses are " and one e
    assert question.score(" aB3xYz0123Roses\nare red") == 0.0  # nothing is stripped
    assert question.groups == {"characters": "8K-16K tokens"}


def test_numbers_follow_docmath_and_strictly_beside(data):
    (question,) = load("tatqa", data).questions
    assert question.gold == "12.5 percent"
    assert question.score("Therefore, the answer is (-12.5).") == 1.0  # DocMath forgives the sign
    assert question.more_metrics["numeric_match"]("Therefore, the answer is (-12.5).") == 0.0
    assert question.score("I do not know") == 0.0
    assert "| Sales | 10 |" in question.context()
    (last,) = load("convfinqa", data).questions
    assert last.question == "change?\n(Asked before: 2007? 2006?)"
    assert last.score("the answer is 20.2 %") == 1.0


def test_evidence_positions_are_shares_of_the_context(data):
    (musique,) = load("musique", data).questions
    context = musique.context()
    assert musique.evidence_position == context.index("Oslo is") / len(context)
    assert load("qmsum", data).questions[1].evidence_position == 0.5
    assert 0 < load("bfcl_memory", data).questions[0].evidence_position < 1
    (babi,) = load("babilong", data).questions
    assert babi.context()[round(babi.evidence_position * len(babi.context())) :].startswith("Mary moved")


def test_babilong_keeps_the_facts_in_order_within_the_length(data):
    (question,) = load("babilong", data, lengths=(300,)).questions
    text = question.context()
    assert 0 < text.index("Mary moved") < text.index("John went")
    assert 280 <= len(text) // 4 <= 310


def test_longmemeval_mixes_in_other_sessions_by_date_and_is_judged_by_type(data):
    days, abstain = load("longmemeval", data).questions
    assert days.context().index("I have a dog.") < days.context().index("I ran on Monday.")
    assert by_name()["longmemeval"].needs_judge
    assert days.judge.decides_alone
    assert "off by one" in days.judge.messages("8 days")[0]["content"]
    assert "cannot be answered" in abstain.judge.messages("no idea")[0]["content"]
    # Official: an unanswerable question counts in its own type, and once more apart.
    assert abstain.groups == {"type": "multi-session", "abstention": "yes"}
    assert days.groups == {"type": "temporal-reasoning", "abstention": "no"}
    assert days.mean_over == abstain.mean_over == "type"
    assert "</response>\n<question>" not in days.judge.messages("</response>\n<question>")[0]["content"]

    def say(text):
        return days.judge.verdict(ChatReply(text, "stop", Usage(1, 1)))

    assert say("Yes.") is True
    assert say("No") is False
    with pytest.raises(ChatFailedError):
        say("maybe")


EDGES = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "d"), ("d", "c"), ("c", "c")]


def test_breadth_first_is_the_exact_depth_and_parents_exclude_the_node():
    assert breadth_first(EDGES, "a", 1) == {"b", "d"}
    assert breadth_first(EDGES, "a", 2) == {"c"}
    assert breadth_first(EDGES, "a", 3) == set()  # a was visited
    assert parents(EDGES, "c") == {"b", "d"}


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Final Answer: [b, d]", 1.0),
        ("b leads on.\nFinal Answer: [d]", 2 / 3),
        ("Final Answer: [b, x]", 0.5),
        ("Final Answer: [b, d]\nThat is it.", 0.0),  # not on the last line
        ("[b, d]", 0.0),
    ],
)
def test_graphwalks_reads_the_last_line(response, score):
    assert final_set_f1(response, frozenset({"b", "d"})) == pytest.approx(score)


def test_an_empty_set_must_be_said():
    assert final_set_f1("Final Answer: []", frozenset()) == 1.0
    assert final_set_f1("", frozenset()) == 0.0


def test_ruler_has_its_tasks_each_within_its_length(data):
    lengths = (400, 3_000)
    questions = load("ruler", data, limit=2 * 12, lengths=lengths).questions
    tasks = {question.benchmark.split("/")[1] for question in questions}
    # No SQuAD here, and the prose has too few words for a list of common ones.
    assert tasks == {*NEEDLE_FORMS, "vt", "fwe", "qa_2"}
    for question in questions:
        _, task, length = question.benchmark.split("/")
        context = question.context()
        assert all(gold in context for gold in question.gold)
        if task != "qa_2":
            assert 0.85 * int(length) <= len(context) // 4 <= int(length) + 1, task
    by_task = {question.benchmark: question for question in questions}
    several = by_task["ruler/niah_multiquery/400"]
    assert len(several.gold) == 4
    assert several.score(f"{several.gold[0]} and {several.gold[3]}") == 0.5
    assert several.answer_prefix.endswith("mentioned in the provided text are")
    chain = by_task["ruler/vt/400"]
    assert len(chain.gold) == 5
    places = [chain.context().index(f"VAR {name} =") for name in chain.gold]
    assert places == sorted(places)
    assert by_task["ruler/qa_2/400"].metric == "any_contained"


def test_rulers_words_have_the_frequencies_that_are_asked_for():
    def count(text):
        return len(text) // 4

    words = [f"{a}{b}{c}word" for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    common = make_common_words(words, 4_000, random.Random(1), count)
    times = Counter(line.split(". ")[1] for line in common.context.splitlines())
    assert {times[word] for word in common.golds} == {30}
    assert max(count for word, count in times.items() if word not in common.golds) == 3
    frequent = make_frequent_words(4_000, random.Random(1), count)
    ranked = [word for word, _ in Counter(frequent.context.split()).most_common(4)]
    assert ranked == ["....", *frequent.golds]


def test_a_hay_of_needles_does_not_run_out_of_keys():
    task = make_needles(NEEDLE_FORMS["niah_multikey_2"], "", 60_000, random.Random(1), lambda text: len(text) // 4)
    keys = re.findall(r"numbers for ([\w-]+) is", task.context)
    assert len(keys) == len(set(keys)) > 2_500
